// The configuration: a TOML file, and environment variables of the same names. A key of the file is the variable's name in lower
// case without ALLOCS_; what the environment says counts more.
//
// `run` checks all of it before the program starts, and hands it to the agent as environment variables. The commands that ask
// take from it what is a reader's matter: `wrappers`; and `level`, if the environment of the asker has it.

import Answers
import Glibc
import SharedLayout

struct Configuration {
  /// Where a value was written: for messages.
  enum Origin {
    case file(path: String, line: Int)
    case environment(name: String)

    func text(line offset: Int) -> String {
      switch self {
      case .file(let path, let line): "\(path):\(line + offset)"
      case .environment(let name): name
      }
    }
  }

  struct Setting {
    var text: String
    var origin: Origin
    /// For lists: where each part of the text, up to the separator, was written.
    var parts: [(end: Int, line: Int)] = []

    /// Where the byte `offset` of the text was written.
    func place(at offset: Int) -> String {
      guard case .file(let path, _) = origin else { return origin.text(line: 0) }
      let part = parts.first { offset < $0.end } ?? parts.last
      let start = parts.last { $0.end <= offset }?.end ?? 0
      let breaks = text.utf8.dropFirst(start).prefix(max(0, offset - start)).count { $0 == UInt8(ascii: "\n") }
      return "\(path):\((part?.line ?? 1) + breaks)"
    }
  }

  /// Keys, each with the kind of its value.
  enum Kind { case text, number, flag, list }
  static let keys: [(name: String, kind: Kind)] = [
    ("depth", .number), ("dir", .text), ("level", .list), ("stacks", .text), ("suballoc", .list), ("verbose", .flag),
    ("wrappers", .list),
  ]

  private(set) var settings: [String: Setting] = [:]

  // MARK: reading

  /// The file at `path`, else at $ALLOCS_CONFIG, else the default one if it is there; then the environment.
  init(path: String?) throws(Failure) {
    if let path = Self.path(named: path) { try read(path) }
    for key in Self.keys {
      let variable = Self.variable(key.name)
      guard let value = getenv(variable).map({ String(cString: $0) }), !value.isEmpty else { continue }
      settings[key.name] = Setting(text: value, origin: .environment(name: variable))
    }
  }

  static func variable(_ key: String) -> String { "ALLOCS_\(key.uppercased())" }

  /// The file that applies; nil if none was named and there is no default one.
  private static func path(named path: String?) -> String? {
    if let path { return path }
    if let named = getenv("ALLOCS_CONFIG").map({ String(cString: $0) }), !named.isEmpty { return named }
    let home = getenv("XDG_CONFIG_HOME").map { String(cString: $0) }.flatMap { $0.isEmpty ? nil : $0 }
    let base = home ?? getenv("HOME").map { "\(String(cString: $0))/.config" }
    let candidates = [base.map { "\($0)/allocs/allocs.toml" }, "/etc/allocs/allocs.toml"].compactMap { $0 }
    return candidates.first { access($0, F_OK) == 0 }
  }

  private mutating func read(_ path: String) throws(Failure) {
    let bytes = try Self.bytes(of: path)
    let entries: [TOML.Entry]
    do throws(TOML.Failure) {
      entries = try TOML.parse(bytes)
    } catch {
      throw Failure(Status.usage, "\(path):\(error.line): \(error.what)", advice: error.advice)
    }
    for entry in entries {
      guard let key = Self.keys.first(where: { $0.name == entry.key }) else {
        throw Failure(
          Status.usage, "\(path):\(entry.line): there is no key \"\(entry.key)\"",
          advice: "the keys are \(Self.keys.map(\.name).joined(separator: ", "))")
      }
      settings[entry.key] = try Self.setting(entry, key.kind, path)
    }
  }

  private static func setting(_ entry: TOML.Entry, _ kind: Kind, _ path: String) throws(Failure) -> Setting {
    let origin = Origin.file(path: path, line: entry.line)
    switch (kind, entry.value) {
    case (.text, .string(let text, let line)), (.list, .string(let text, let line)):
      return Setting(text: text, origin: origin, parts: [(text.utf8.count, line)])
    case (.number, .integer(let number)): return Setting(text: "\(number)", origin: origin)
    case (.flag, .boolean(let flag)): return Setting(text: flag ? "1" : "0", origin: origin)
    case (.list, .array(let items)):
      let separator = entry.key == "level" ? "," : ";"
      var setting = Setting(text: "", origin: origin)
      for item in items {
        guard !item.text.contains(separator) || entry.key != "wrappers" else {
          throw Failure(
            Status.usage, "\(path):\(item.line): a pattern has a ;", advice: "give each pattern a string of its own")
        }
        setting.text += item.text + separator
        setting.parts.append((setting.text.utf8.count, item.line))
      }
      return setting
    default:
      let wanted =
        switch kind {
        case .text: "a string"
        case .number: "a number"
        case .flag: "true or false"
        case .list: "a string or an array of strings"
        }
      throw Failure(
        Status.usage, "\(path):\(entry.line): the value of \(entry.key) is of the wrong kind", advice: "give \(wanted)")
    }
  }

  private static func bytes(of path: String) throws(Failure) -> [UInt8] {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else {
      throw Failure(
        Status.usage, "cannot read the configuration \(path): \(String(cString: strerror(errno)))",
        advice: "name another with --config or ALLOCS_CONFIG")
    }
    defer { close(descriptor) }
    let limit = 1 << 20
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG, status.st_size <= limit else {
      throw Failure(
        Status.usage, "cannot read the configuration \(path): it is no file of at most 1 MiB",
        advice: "name another with --config or ALLOCS_CONFIG")
    }
    return [UInt8](unsafeUninitializedCapacity: limit) { buffer, count in
      count = max(0, Glibc.read(descriptor, buffer.baseAddress, limit))
    }
  }

  // MARK: for who asks

  /// What a reader takes from the configuration.
  static func ofReader() throws(Failure) -> (wrappers: [String], level: Level?) {
    let configuration = try Configuration(path: nil)
    var level: Level?
    if let setting = configuration.settings["level"] {
      switch setting.text.split(whereSeparator: { ", ".contains($0) }).last {
      case "block": level = .block
      case "chunk": level = .chunk
      default: level = nil  // what it says of single allocators is the started process's matter
      }
    }
    return (configuration.wrappers, level)
  }

  /// Patterns of functions that are passed over.
  var wrappers: [String] {
    (settings["wrappers"]?.text ?? "").split(whereSeparator: { $0 == ";" || $0.isNewline })
      .map { $0.trimmed }.filter { !$0.isEmpty }
  }
}

extension Substring {
  fileprivate var trimmed: String {
    var text = self
    while text.first?.isWhitespace == true { text.removeFirst() }
    while text.last?.isWhitespace == true { text.removeLast() }
    return String(text)
  }
}
