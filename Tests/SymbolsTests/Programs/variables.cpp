// Variables of all kinds: the program prints, for each, how its source names it and its address in the ELF file.
#include <cstdint>
#include <cstdio>

extern "C" char __ehdr_start[];
#define SAY(expression) std::printf("%s %lx\n", #expression, (unsigned long)((char *)&(expression) - __ehdr_start))

struct Base { virtual ~Base() {} int in_base; };
struct Second { int in_second; };
struct Derived : Base, Second { int own; static int shared; short array[2][3]; Derived *next; };
int Derived::shared = 4;
namespace space {
Derived derived;
namespace { long hidden[4]; }
struct Inner { char text[8]; };
template <typename T> struct Box { T value; T *pointer; };
Box<Inner> box;
}
using Alias = const space::Box<int>;
Alias aliased = {5, nullptr};
union Bits { struct { unsigned a : 3, b : 13, c : 16; } fields; float number; } bits;
int (*function_pointer)(const char *, ...) = std::printf;
struct Flexible { int count; int rest[]; } flexible = {2, {1, 2}};
enum class Color : short { red, green } color = Color::green;
int &reference = Derived::shared;
static volatile int *volatile pointer_to_volatile;
int zero_length[0];
struct Packed { char first; long second; } __attribute__((packed)) packed;

__attribute__((noinline)) static int counted() {
  static int counter[3];
  SAY(counter[1]);
  return ++counter[1];
}

int main() {
  SAY(space::derived);
  SAY(space::derived.in_base);
  SAY(space::derived.in_second);
  SAY(space::derived.own);
  SAY(space::derived.array[1][2]);
  SAY(space::derived.next);
  SAY(Derived::shared);
  SAY(space::hidden[3]);
  SAY(space::box.value.text[7]);
  SAY(space::box.pointer);
  SAY(aliased.value);
  SAY(bits.number);
  SAY(function_pointer);
  SAY(flexible.rest[1]);
  SAY(color);
  SAY(pointer_to_volatile);
  SAY(packed.second);
  pointer_to_volatile = &Derived::shared;
  return counted() + zero_length[0] * 0 + (reference == 4 ? 0 : 1) - 1;
}
