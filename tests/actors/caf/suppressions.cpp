// CAF as Debian builds it is not instrumented, so the thread sanitizer does not see that its mailboxes
// synchronise those who send with those who receive. These tests send messages between CAF's threads and
// ours all the time: what CAF's functions are on the stack of is left out, in this program only.
#if defined(__SANITIZE_THREAD__)
extern "C" const char* __tsan_default_suppressions();
extern "C" const char* __tsan_default_suppressions() {
  return "race:caf::\n";
}
#endif
