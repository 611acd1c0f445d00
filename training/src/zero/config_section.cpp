#include "zero/config_section.hpp"

#include <cmath>
#include <utility>

namespace troupe::training::zero {
namespace {

bool is_off(const Json& value) {
  if (value.is_null() || value == false || value == "none") return true;
  if (value.is_number()) return value.get<double>() == 0;
  return value.is_object() && (value.empty() || value.value("enabled", Json(true)) == false);
}

}  // namespace

Section::Section(const Json* json, std::string path, Findings& findings)
    : json_(json), path_(std::move(path)), findings_(findings) {
  if (json_ == nullptr || json_->is_object()) return;
  findings_.add(Code::kInvalidArgument, "'" + path_.substr(0, path_.empty() ? 0 : path_.size() - 1) +
                                            "' is " + to_line(*json_) + ", expected an object");
  json_ = nullptr;
}

const Json* Section::find(const char* name) const {
  if (json_ == nullptr) return nullptr;
  const auto found = json_->find(name);
  return found == json_->end() ? nullptr : &*found;
}

const Json* Section::take(const char* name) {
  known_.insert(name);
  const Json* value = find(name);
  if (value != nullptr && *value == "auto") {
    fault(name, "a value: 'auto' is a word of programs that fill it in");
    return nullptr;
  }
  return value;
}

void Section::fault(const char* name, const std::string& expected) {
  const Json* value = find(name);
  findings_.add(Code::kInvalidArgument, "'" + path_ + name + "' is " +
                                            (value == nullptr ? "missing" : to_line(*value)) + ", expected " +
                                            expected);
}

void Section::unimplemented(const char* name, const std::string& why) {
  const Json* value = find(name);
  findings_.add(Code::kUnimplemented,
                "'" + path_ + name + "'" + (value == nullptr ? "" : " is " + to_line(*value)) + ": " + why);
}

bool Section::flag(const char* name, bool usual) {
  const Json* value = take(name);
  if (value == nullptr || value->is_null()) return usual;
  if (value->is_boolean()) return value->get<bool>();
  fault(name, "true or false");
  return usual;
}

double Section::number(const char* name, double usual) {
  const Json* value = take(name);
  if (value == nullptr || value->is_null()) return usual;
  // Inf, for whoever keeps it as a float, is no number either.
  if (value->is_number() && value->get<double>() >= 0 &&
      std::isfinite(static_cast<float>(value->get<double>())))
    return value->get<double>();
  fault(name, "a number from 0 on");
  return usual;
}

std::int64_t Section::whole(const char* name, std::int64_t usual, std::int64_t least) {
  constexpr double kMost = 0x1p62;
  const Json* value = take(name);
  if (value == nullptr || value->is_null()) return usual;
  if (value->is_number()) {
    const double number = value->get<double>();
    if (number == std::floor(number) && number >= static_cast<double>(least) && number <= kMost)
      return static_cast<std::int64_t>(number);
  }
  fault(name, "a whole number from " + std::to_string(least) + " on");
  return usual;
}

std::string Section::text(const char* name, const std::string& usual) {
  const Json* value = take(name);
  if (value == nullptr || value->is_null()) return usual;
  if (value->is_string()) return value->get<std::string>();
  fault(name, "a text");
  return usual;
}

std::vector<double> Section::numbers(const char* name, std::vector<double> usual) {
  const Json* value = take(name);
  if (value == nullptr || value->is_null()) return usual;
  std::vector<double> numbers;
  if (value->is_array())
    for (const Json& each : *value)
      if (each.is_number()) numbers.push_back(each.get<double>());
  if (value->is_array() && numbers.size() == value->size() && numbers.size() == usual.size()) return numbers;
  fault(name, "a list of " + std::to_string(usual.size()) + " numbers");
  return usual;
}

Section Section::section(const char* name) {
  const Json* value = take(name);
  return {value != nullptr && value->is_null() ? nullptr : value, path_ + name + ".", findings_};
}

void Section::ignore(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    known_.insert(name);
    if (has(name)) findings_.ignored.push_back(path_ + name);
  }
}

void Section::refuse(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const Json* value = take(name);
    if (value != nullptr && !is_off(*value)) unimplemented(name, "is not there");
  }
}

void Section::refuse_unless(const char* name, const Json& allowed) {
  const Json* value = take(name);
  if (value == nullptr || value->is_null() || *value == allowed) return;
  unimplemented(name, "there is only " + to_line(allowed));
}

void Section::finish() {
  if (json_ == nullptr) return;
  for (const auto& [name, value] : json_->items())
    if (!known_.contains(name)) findings_.unknown.push_back(path_ + name);
}

}  // namespace troupe::training::zero
