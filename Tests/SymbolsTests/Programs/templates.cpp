#include <string>
#include <vector>

extern "C" void probe(const char *name);

namespace shop {
template <typename Item>
struct Shelf {
  std::vector<Item> items;
  explicit Shelf(int count) : items(count) {
    probe("constructor");  // @constructor
  }
  __attribute__((noinline)) int put(Item const &item) {
    items.push_back(item);
    probe("method");  // @method
    return static_cast<int>(items.size());
  }
};

struct Meter {
  __attribute__((noinline)) int operator+(Meter const &other) const {
    probe("operator");  // @operator
    return value + other.value;
  }
  int value = 2;
};

template <int count>
inline __attribute__((always_inline)) int times(int value) {
  probe("template");  // @times
  return value * count;
}

__attribute__((used)) static int table[8];
}  // namespace shop

__attribute__((noinline)) int run(int value) {
  int result = shop::times<7>(value);  // @run
  auto lambda = [&](int more) __attribute__((noinline)) {
    probe("lambda");  // @lambda
    return more + result;
  };
  return lambda(value) + shop::table[value];
}

int main(int argc, char **) {
  shop::Shelf<std::string> shelf(argc);
  shop::Meter meter;
  return shelf.put("x") + run(argc) + (meter + meter) == 0;
}
