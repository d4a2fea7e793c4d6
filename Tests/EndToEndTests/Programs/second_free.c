// A second function called free, of this file alone.
__attribute__((used)) static void other(void *block) __asm__("free");
__attribute__((noinline)) static void other(void *block) { __asm__ volatile("nop; nop; nop; nop; nop; nop; nop; nop" : : "r"(block)); }
