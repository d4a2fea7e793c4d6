// Deep templates, the standard library's containers, and exceptions, for scripts/compare-stacks: about 100,000 allocations.

#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <variant>
#include <vector>

template <int Level, class... Types> struct Nest {
  static std::string down(int i) {
    std::tuple<Types...> values;
    std::string text = Nest<Level - 1, std::vector<char>, Types...>::down(i) + std::to_string(Level * i);
    if (Level == 3 && i % 7 == 0) throw std::runtime_error("no " + text);
    return std::tuple_size<decltype(values)>::value % 2 ? text : text + "a longer text than fits in place";
  }
};
template <class... Types> struct Nest<0, Types...> {
  static std::string down(int i) { return std::string(20 + i % 30, 'x'); }
};

template <class Value> std::shared_ptr<std::function<Value(Value)>> compose(int depth) {
  if (depth == 0) return std::make_shared<std::function<Value(Value)>>([](Value value) { return value; });
  auto inner = compose<Value>(depth - 1);
  return std::make_shared<std::function<Value(Value)>>([inner](Value value) { return (*inner)(value + value); });
}

static size_t work(int part) {
  std::map<std::string, std::vector<std::unique_ptr<int>>> map;
  std::unordered_map<int, std::variant<int, std::string>> variants;
  size_t failures = 0;
  for (int i = part; i < 2000; i += 2) {
    try {
      map[Nest<12>::down(i)].push_back(std::make_unique<int>(i));
      variants[i] = (*compose<std::string>(3))("fourteen bytes");
    } catch (const std::exception &error) {
      failures += std::string(error.what()).size();
    }
  }
  std::vector<std::string> names;
  for (auto &[name, values] : map) names.push_back(name + std::to_string(values.size()));
  std::stable_sort(names.begin(), names.end(), [](auto &a, auto &b) { return a.substr(5) < b.substr(5); });
  return std::accumulate(names.begin(), names.end(), failures + variants.size(), [](size_t sum, auto &name) { return sum + name.size(); });
}

int main() {
  size_t sums[2];
  std::thread other([&] { sums[1] = work(1); });
  sums[0] = work(0);
  other.join();
  std::cout << sums[0] + sums[1] << "\n";
}
