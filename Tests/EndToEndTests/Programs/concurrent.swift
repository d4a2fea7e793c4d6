// A Swift program as they are: Foundation, structured concurrency, actors, dictionaries, JSON, classes.
import Foundation

struct Document: Codable, Sendable {
  var id: Int
  var name: String
  var tags: [String]
}

final class Tree {
  var left: Tree?
  var right: Tree?
  init(depth: Int) {
    guard depth > 0 else { return }
    left = Tree(depth: depth - 1)
    right = Tree(depth: depth - 1)
  }
  var count: Int { 1 + (left?.count ?? 0) + (right?.count ?? 0) }
}

actor Tally {
  private var counts: [String: Int] = [:]
  func add(_ tag: String) { counts[tag, default: 0] += 1 }
  var summary: String { counts.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }.joined(separator: " ") }
}

let tally = Tally()
let sizes = try await withThrowingTaskGroup(of: Int.self) { group in
  for part in 0..<16 {
    group.addTask {
      let documents = (0..<300).map {
        Document(id: $0, name: "document \(part)-\($0)", tags: ["t\($0 % 7)", "p\(part % 3)"])
      }
      let encoder = JSONEncoder()
      encoder.outputFormatting = .sortedKeys
      let data = try encoder.encode(documents)
      for document in try JSONDecoder().decode([Document].self, from: data) {
        for tag in document.tags { await tally.add(tag) }
      }
      return data.count
    }
  }
  return try await group.reduce(into: [Int]()) { $0.append($1) }
}
print(sizes.sorted())
print(await tally.summary)
print((0..<5).map { Tree(depth: 8 + $0).count })
let text = (0..<3000).map { "line \($0 * 7919 % 3000)" }.joined(separator: "\n")
print(text.split(separator: "\n").sorted().prefix(3), text.replacingOccurrences(of: "line", with: "row").count)
print(String(format: "%.3f", (1...1000).reduce(0.0) { $0 + 1 / Double($1) }))
