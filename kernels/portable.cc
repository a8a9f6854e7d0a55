// Portable: a symbol of newer systems that the library brings itself, where it is built for others (CMakeLists.txt).
//
// libstdc++ counts references without atomic instructions while __libc_single_threaded says that there is one thread.
// glibc has it from 2.32 on, and nothing else in the library needs a glibc above 2.18. This one is hidden, so it holds
// for this library alone, and it always says that there may be threads.
extern "C" __attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
