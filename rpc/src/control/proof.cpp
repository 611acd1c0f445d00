#include "control/proof.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

namespace troupe::rpc {

namespace {

/// Keeps these proofs apart from whatever else the same secret may be used for.
constexpr std::string_view kLabel = "troupe meeting 1";

void append(std::vector<std::byte>& to, std::uint64_t number) {
  for (int i = 0; i < 8; ++i) to.push_back(static_cast<std::byte>(number >> (8 * i)));
}

}  // namespace

Result<Nonce> make_nonce() {
  Nonce nonce;
  if (::getentropy(nonce.data(), nonce.size()) != 0) return errno_error(errno, "asking for random bytes");
  return nonce;
}

Result<Proof> prove(std::string_view secret, MeetingRole who, const MeetingTerms& terms) {
  std::vector<std::byte> said;
  for (const char c : kLabel) said.push_back(static_cast<std::byte>(c));
  said.push_back(static_cast<std::byte>(who));
  append(said, terms.dialling_node);
  append(said, terms.listening_node);
  said.insert(said.end(), terms.dialling_nonce.begin(), terms.dialling_nonce.end());
  said.insert(said.end(), terms.listening_nonce.begin(), terms.listening_nonce.end());

  Proof proof;
  unsigned size = 0;
  const auto* made = HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
                          reinterpret_cast<const unsigned char*>(said.data()), said.size(),
                          reinterpret_cast<unsigned char*>(proof.data()), &size);
  if (!made || size != proof.size()) return Error{Code::kInternal, "no HMAC-SHA-256 could be computed"};
  return proof;
}

bool same_proof(std::span<const std::byte> claimed, const Proof& expected) {
  return claimed.size() == expected.size() &&
         CRYPTO_memcmp(claimed.data(), expected.data(), expected.size()) == 0;
}

}  // namespace troupe::rpc
