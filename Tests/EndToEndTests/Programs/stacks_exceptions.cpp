// Exceptions through many frames, of many kinds, caught at any of them; allocations before, during and after.

#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "stacks.h"

#define FRAME __attribute__((noinline))
static unsigned long state = 88172645463325252UL;
static unsigned number(unsigned below) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return static_cast<unsigned>(state >> 20) % below;
}

struct Guard {
  int depth;
  FRAME ~Guard() {
    if (depth % 3 == 0) STACKS_HERE(72);
  }
};

template <int Level, class... Types> struct Nest {
  FRAME static int down(int depth, const std::function<int(int)> &then) {
    Guard guard{depth};
    try {
      alignas(Level % 2 ? 16 : 64) char pad[64];
      memset(pad, depth, sizeof pad);
      int result = Nest<Level - 1, Types..., std::vector<char[Level]>>::down(depth + 1, then);
      STACKS_HERE(40);
      return result + pad[depth % 64];
    } catch (const std::runtime_error &error) {
      STACKS_HERE(56);
      if (number(3) == 0) throw;
      if (number(5) == 0) throw std::logic_error(std::string(40, 'x') + error.what());
      return 1;
    } catch (const std::logic_error &) {
      STACKS_HERE(120);
      return 2;
    }
  }
};
template <class... Types> struct Nest<0, Types...> {
  FRAME static int down(int depth, const std::function<int(int)> &then) {
    STACKS_HERE(24);
    int result = then(depth);
    STACKS_BARRIER;
    return result;
  }
};

int main() {
  for (int i = 0; i < 200; i++) {
    std::function<int(int)> then = [&](int depth) {
      STACKS_HERE(88);
      if (i % 2) throw std::runtime_error(std::string(30 + depth, 'y'));
      return depth;
    };
    try {
      Nest<25>::down(0, then);
    } catch (const std::exception &) {
      STACKS_HERE(104);
    }
  }
  return stacks_finish("exceptions");
}
