// Which functions allocate on behalf of their caller: the list in Wrappers.txt, and what the person who asks adds to
// it.
//
// A name is held against the patterns once for each return address of a request (Attribution), so the search is plain:
// whole names by hash, the others one after another.

/// Patterns of functions that are passed over in the search for an allocation site. Wrappers.txt says how they are
/// written.
public struct Wrappers: Sendable {
  /// Longest pattern that is accepted, in bytes, and how many may be added.
  public static let patternLimit = 1000
  public static let additionLimit = 100

  /// The patterns of Wrappers.txt.
  public static let standard: Wrappers = {
    var wrappers = Wrappers()
    for pattern in patterns(in: PackageResources.Wrappers_txt) { wrappers.insert(pattern) }
    return wrappers
  }()

  /// Whether there are none but those of Wrappers.txt.
  private(set) var isStandard = true
  private var names: Set<[UInt8]> = []
  /// Patterns held against plain names, and against whole ones.
  private var plainGlobs: [[UInt8]] = []
  private var wholeGlobs: [[UInt8]] = []

  private init() {}

  /// These and `patterns`. Throws `.usage` if one is empty or too long, or they are too many.
  public func adding(_ patterns: [String]) throws(AnswerError) -> Wrappers {
    guard patterns.count <= Self.additionLimit else {
      throw AnswerError(
        .usage, what: "there are \(patterns.count) patterns of wrappers",
        advice: "give at most \(Self.additionLimit), with * for what they have in common")
    }
    var result = self
    for pattern in patterns {
      result.isStandard = false
      let bytes = Self.trimmed(Array(pattern.utf8)[...])
      guard !bytes.isEmpty else {
        throw AnswerError(
          .usage, what: "the pattern of a wrapper is empty", advice: "give a function's name, such as my_malloc or my_*"
        )
      }
      guard bytes.count <= Self.patternLimit else {
        throw AnswerError(
          .usage, what: "the pattern of a wrapper has \(bytes.count) bytes",
          advice: "give at most \(Self.patternLimit), with * for the rest")
      }
      result.insert(Array(bytes))
    }
    return result
  }

  /// Whether the function with the demangled name `function` is a wrapper.
  public func contains(_ function: String) -> Bool {
    let whole = Array(function.utf8)
    let plain = FunctionName.plain(whole)
    return names.contains(plain) || plainGlobs.contains { Self.matches(plain, $0) }
      || wholeGlobs.contains { Self.matches(whole, $0) }
  }

  /// The patterns in a list: one a line, without blanks around it, empty lines and those that begin with #.
  static func patterns(in list: [UInt8]) -> [[UInt8]] {
    list.split(separator: UInt8(ascii: "\n")).compactMap { line in
      let pattern = trimmed(line)
      return pattern.isEmpty || pattern.first == UInt8(ascii: "#") ? nil : Array(pattern)
    }
  }

  private static func trimmed(_ line: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
    let isBlank = { (byte: UInt8) in byte == 0x20 || byte == 0x09 || byte == 0x0D || byte == 0x0A }
    var line = line.drop(while: isBlank)
    while let last = line.last, isBlank(last) { line.removeLast() }
    return line
  }

  private mutating func insert(_ pattern: [UInt8]) {
    if pattern.contains(where: { $0 == UInt8(ascii: "<") || $0 == UInt8(ascii: "(") }) {
      wholeGlobs.append(pattern)
    } else if pattern.contains(where: { $0 == UInt8(ascii: "*") || $0 == UInt8(ascii: "?") }) {
      plainGlobs.append(pattern)
    } else {
      names.insert(pattern)
    }
  }

  /// Whether `pattern` stands for all of `name`. Goes back to the last star alone, so that the time is bounded by the
  /// product of both lengths.
  static func matches(_ name: [UInt8], _ pattern: [UInt8]) -> Bool {
    let star = UInt8(ascii: "*")
    var inName = 0
    var inPattern = 0
    var retry: (inName: Int, inPattern: Int)?
    while inName < name.count {
      if inPattern < pattern.count, pattern[inPattern] == star {
        inPattern += 1
        retry = (inName, inPattern)
      } else if inPattern < pattern.count, pattern[inPattern] == UInt8(ascii: "?") {
        inPattern += 1
        inName += 1
        while inName < name.count, name[inName] & 0xC0 == 0x80 { inName += 1 }
      } else if inPattern < pattern.count, pattern[inPattern] == name[inName] {
        inPattern += 1
        inName += 1
      } else if let last = retry {
        inName = last.inName + 1
        inPattern = last.inPattern
        retry?.inName = inName
      } else {
        return false
      }
    }
    return pattern[inPattern...].allSatisfy { $0 == star }
  }
}
