#pragma once

namespace troupe::gpt {

/// Unicode's categories L and N.
bool is_letter(char32_t code);
bool is_number(char32_t code);

}  // namespace troupe::gpt
