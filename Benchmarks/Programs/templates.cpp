// SPDX-License-Identifier: Apache-2.0
// For the compiler, not to be run: templates of the standard library and of its own, each instantiated many times.
#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

template <int Number> struct Value {
  int number = Number;
  std::string text;
  bool operator<(const Value &other) const { return std::tie(number, text) < std::tie(other.number, other.text); }
};

template <int Number> size_t use(const std::string &name) {
  std::map<std::string, Value<Number>> byName;
  std::set<Value<Number>> ordered;
  std::vector<std::unique_ptr<Value<Number>>> owned;
  std::variant<Value<Number>, std::vector<Value<Number>>, std::string> either = name;
  byName[name].text = name;
  ordered.insert(byName[name]);
  owned.push_back(std::make_unique<Value<Number>>(byName[name]));
  std::sort(owned.begin(), owned.end(), [](const auto &a, const auto &b) { return *a < *b; });
  std::function<size_t(const std::string &)> length = [&](const std::string &text) { return text.size() + Number; };
  return std::visit([](const auto &) -> size_t { return Number; }, either) + length(name) + ordered.size();
}

template <size_t... Numbers> size_t useAll(std::index_sequence<Numbers...>, const std::string &name) {
  return (use<int(Numbers)>(name) + ... + 0);
}

size_t everything(const std::string &name) {
  std::unordered_map<std::string, std::tuple<int, std::string, double>> table;
  table[name] = std::make_tuple(1, name, 2.0);
  return useAll(std::make_index_sequence<10>(), name) + table.size();
}
