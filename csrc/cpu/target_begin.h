// Compiles what follows for the instruction sets named by LKCA_TARGET, whatever the flags of the build are.
// Include intrinsics and system headers before, never after.
#if defined(__clang__)
#define LKCA_PRAGMA(x) _Pragma(#x)
#define LKCA_PUSH(features) LKCA_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
LKCA_PUSH(LKCA_TARGET)
#else
#pragma GCC push_options
// GCC 12 takes the deliberately undefined operands inside the intrinsics for ours.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#define LKCA_PRAGMA(x) _Pragma(#x)
#define LKCA_GCC_TARGET(features) LKCA_PRAGMA(GCC target(features))
LKCA_GCC_TARGET(LKCA_TARGET)
#endif
