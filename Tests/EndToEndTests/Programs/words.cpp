// A C++ program as they are: streams, maps, strings, exceptions, smart pointers, threads, regular expressions.
#include <algorithm>
#include <future>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <regex>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

struct Node {
  std::string word;
  std::shared_ptr<Node> next;
};

static std::string make_text(unsigned seed, size_t words) {
  std::ostringstream text;
  for (size_t i = 0; i < words; i++) {
    seed = seed * 1103515245 + 12345;
    text << "w" << (seed >> 16) % 5000 << (i % 12 == 11 ? '\n' : ' ');
  }
  return text.str();
}

static std::map<std::string, size_t> count(const std::string &text) {
  std::map<std::string, size_t> counts;
  std::istringstream stream(text);
  std::string word;
  while (stream >> word) {
    if (word == "w13" && text.size() % 3 == 0) throw std::runtime_error("unlucky word in " + text.substr(0, 20));
    counts[word]++;
  }
  return counts;
}

int main() {
  std::vector<std::future<std::map<std::string, size_t>>> parts;
  for (unsigned i = 0; i < 12; i++) parts.push_back(std::async(std::launch::async, [i] { return count(make_text(i + 1, 20000)); }));
  std::unordered_map<std::string, size_t> total;
  size_t unlucky = 0;
  for (auto &part : parts) {
    try {
      for (auto &entry : part.get()) total[entry.first] += entry.second;
    } catch (const std::exception &) {
      unlucky++;
    }
  }
  std::vector<std::pair<size_t, std::string>> ranking;
  for (auto &entry : total) ranking.emplace_back(entry.second, entry.first);
  std::sort(ranking.begin(), ranking.end());
  std::cout << unlucky << " unlucky, " << ranking.size() << " words\n";
  for (size_t i = 0; i < 5 && i < ranking.size(); i++) std::cout << ranking[i].first << " " << ranking[i].second << "\n";

  std::shared_ptr<Node> head;
  for (int i = 0; i < 20000; i++) head = std::make_shared<Node>(Node{"node " + std::to_string(i), head});
  size_t length = 0;
  while (head) {
    length += head->word.size();
    head = std::move(head->next);
  }
  std::regex pattern("w([0-9])\\1+");
  std::string text = make_text(99, 3000);
  std::cout << length << " " << std::distance(std::sregex_iterator(text.begin(), text.end(), pattern), std::sregex_iterator()) << "\n";

  std::mutex mutex;
  std::set<std::string> kept;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; t++)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 2000; i++) {
        auto word = std::make_unique<std::string>(std::to_string(i * t % 777) + std::string(size_t(i) % 50, 'x'));
        std::lock_guard<std::mutex> lock(mutex);
        kept.insert(*word);
      }
    });
  for (auto &thread : threads) thread.join();
  std::cout << kept.size() << " " << *kept.rbegin() << std::endl;
}
