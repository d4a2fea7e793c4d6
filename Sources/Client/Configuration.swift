// SPDX-License-Identifier: Apache-2.0
// The configuration: a TOML file, environment variables, and options of `run`. A key of the file is the variable's name
// in lower case without ALLOCS_. A variable outweighs the file, and an option outweighs both.
//
// `run` checks the whole configuration before the program starts, and hands it to the agent as environment variables.
// The commands that ask take two settings from it that are for readers: `wrappers`, and `level` if the environment of
// the caller has it.

import Answers
import ByteText
import FileFacts
import Glibc
import Provenance
import SharedLayout
import SystemAccess

struct Configuration {
  /// Where a value was written: for messages.
  enum Origin {
    case file(path: String, line: Int)
    /// An environment variable or an option.
    case named(String)
  }

  struct Setting {
    var text: String
    var origin: Origin
    /// Of a list: the line of each part of the text, which ends with the separator.
    var parts: [(end: Int, line: Int)] = []

    /// The place at which the byte `offset` of the text was written.
    func place(at offset: Int) -> String {
      if case .named(let name) = origin { return name }
      guard case .file(let path, _) = origin else { return "" }
      let part = parts.first { offset < $0.end } ?? parts.last
      let start = parts.last { $0.end <= offset }?.end ?? 0
      // bounded: the start is 0, or an end of a part
      let breaks = text.utf8.dropFirst(start).prefix(max(0, offset &- start)).count { $0 == UInt8(ascii: "\n") }
      return "\(path):\((part?.line ?? 1) &+ breaks)"
    }
  }

  /// Keys whose value may be an array of strings.
  private static let lists: Set<String> = ["level", "suballoc", "wrappers"]

  /// The settings that were given, by key.
  private(set) var settings: [String: Setting] = [:]

  // MARK: reading

  /// Reads the file at `path`, else at $ALLOCS_CONFIG, else the default file if it exists; then the environment.
  init(path: String?) throws(Complaint) {
    if let path = Self.path(named: path) { try read(path) }
    for kind in SettingKind.configured {
      guard let value = Variables.nonEmptyValue(of: kind.variable) else { continue }
      settings[kind.key] = Setting(text: value, origin: .named(kind.variable))
    }
  }

  /// Takes the value that an option of the command line gives.
  mutating func set(_ key: String, to value: String, option: String) {
    settings[key] = Setting(text: value, origin: .named(option))
  }

  /// The file that applies; nil if none was named and no default file exists.
  private static func path(named path: String?) -> String? {
    if let path { return path }
    if let named = Variables.nonEmptyValue(of: "ALLOCS_CONFIG") { return named }
    let base =
      Variables.nonEmptyValue(of: "XDG_CONFIG_HOME") ?? Variables.value(of: "HOME").map { "\($0)/.config" }
    let candidates = [base.map { "\($0)/allocs/allocs.toml" }, "/etc/allocs/allocs.toml"].compactMap { $0 }
    return candidates.first { access($0.originalPath, F_OK) == 0 }
  }

  private mutating func read(_ path: String) throws(Complaint) {
    let bytes = try Self.bytes(of: path)
    let entries: [TOML.Entry]
    do throws(TOML.Failure) {
      entries = try TOML.parse(bytes)
    } catch {
      throw Complaint(.usage, what: "\(path):\(error.line): \(error.what)", advice: error.advice)
    }
    for entry in entries {
      guard let kind = SettingKind.configured.first(where: { $0.key == entry.key }) else {
        let meant = SettingKind.meant(by: "\(ALLOCS_SETTING_PREFIX)\(entry.key)")
        let question = meant.flatMap { $0.scope == ALLOCS_SCOPE_CONFIGURED ? "did you mean \($0.key)? " : nil } ?? ""
        throw Complaint(
          .usage, what: "\(path):\(entry.line): there is no key \"\(entry.key)\"",
          advice: question + "the keys are \(SettingKind.configured.map(\.key).sorted().joined(separator: ", "))")
      }
      settings[entry.key] = try Self.setting(entry, kind, path)
    }
  }

  /// The value in the form that the environment would have it. Whether the setting can have that value is checked
  /// later, with all others.
  private static func setting(_ entry: TOML.Entry, _ kind: SettingKind, _ path: String) throws(Complaint) -> Setting {
    let origin = Origin.file(path: path, line: entry.line)
    switch (kind.kind, entry.value) {
    case (ALLOCS_KIND_NUMBER, .string): break
    case (_, .string(let text, let line)):
      // An empty variable counts as no value at all.
      guard kind.kind == ALLOCS_KIND_TEXT || !text.isEmpty else { break }
      return Setting(text: text, origin: origin, parts: [(text.utf8.count, line)])
    case (ALLOCS_KIND_NUMBER, .integer(let number)), (ALLOCS_KIND_SIZE, .integer(let number)),
      (ALLOCS_KIND_FLAG, .integer(let number)):
      return Setting(text: "\(number)", origin: origin)
    case (ALLOCS_KIND_FLAG, .boolean(let flag)): return Setting(text: flag ? "1" : "0", origin: origin)
    case (ALLOCS_KIND_TEXT, .array(let items)) where lists.contains(entry.key):
      let separator = entry.key == "level" ? "," : ";"
      var setting = Setting(text: "", origin: origin)
      for item in items {
        guard !item.text.contains(separator) || entry.key != "wrappers" else {
          throw Complaint(
            .usage, what: "\(path):\(item.line): a pattern has a ;", advice: "give each pattern a string of its own")
        }
        setting.text += "\(item.text)\(separator)"
        setting.parts.append((setting.text.utf8.count, item.line))
      }
      return setting
    default: break
    }
    let wanted =
      switch kind.kind {
      case ALLOCS_KIND_NUMBER: "a number"
      case ALLOCS_KIND_SIZE: "a number, or a string such as \"8M\""
      case ALLOCS_KIND_FLAG: "true or false"
      case ALLOCS_KIND_WORD: "a string"
      default: lists.contains(entry.key) ? "a string or an array of strings" : "a string"
      }
    throw Complaint(
      .usage, what: "\(path):\(entry.line): the value of \(entry.key) is of the wrong kind", advice: "give \(wanted)")
  }

  private static func bytes(of path: String) throws(Complaint) -> [UInt8] {
    let limit = 1 << 20
    do throws(RegularFile.Refusal) {
      return try RegularFile(path: ForeignText(path), sizeLimit: UInt64(clamping: limit)).bytes(at: 0, count: limit)
    } catch {
      var why = "it is no file of at most 1 MiB"
      if case .system(let code) = error { why = systemWords(code) }
      throw Complaint(
        .usage, what: "cannot read the configuration \(path): \(why)",
        advice: "name another with --config or ALLOCS_CONFIG")
    }
  }

  // MARK: for who asks

  /// The settings for readers.
  static func ofReader() throws(Complaint) -> (wrappers: [String], level: Level?) {
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
