// SPDX-License-Identifier: Apache-2.0
// Text that comes from elsewhere: names and commands of other processes, paths, symbols, lines of a caller. Whoever
// wrote it may want a terminal, a log or a reader to take it for something else.
//
// Such text is written with escapes for all that would do more than show itself. No way leads from a ForeignText to a
// terminal but through its escapes: interpolation, print and debugging output give them, too. The bytes themselves are
// had by name only (`originalBytes`, `unescaped`), for calls of the system and for comparisons.

/// Text from elsewhere, which is shown with escapes.
public struct ForeignText: Hashable, Sendable {
  /// The text as it came, by its bytes (ByteText): for the system and for comparisons, never for people.
  public let unescaped: String

  public init(_ text: String) { unescaped = text }

  public init(_ text: Substring) { unescaped = String(text) }

  /// The text that stands for these bytes.
  public init(reversibly bytes: some Collection<UInt8>) { unescaped = String(reversibly: bytes) }

  /// The text that stands for the bytes of a string of C.
  public init(reversibly text: UnsafePointer<CChar>) { unescaped = String(reversibly: text) }

  /// The text for people, on one line: controls, line separators, marks of direction and all other characters that show
  /// nothing as `\u{202e}`, bytes that are no text as `\xE9`.
  public var escaped: String { unescaped.escapedAsForeign }

  public var originalBytes: [UInt8] { unescaped.originalBytes }

  /// The original bytes with a zero behind them, as the system takes names and paths.
  public var originalPath: [CChar] { unescaped.originalPath }

  public var isEmpty: Bool { unescaped.isEmpty }

  /// Bytes of memory, about, for the budget of a cache: of the text as UTF-8.
  public var byteCount: Int { unescaped.utf8.count }

  /// Whether it is a path from the root of the file system.
  public var isAbsolutePath: Bool { unescaped.utf8.first == UInt8(ascii: "/") }

  public func hasPrefix(_ text: String) -> Bool { unescaped.hasPrefix(text) }

  public func hasSuffix(_ text: String) -> Bool { unescaped.hasSuffix(text) }

  /// Of a path: its part behind the last slash; the whole text if nothing is there.
  public var fileName: ForeignText {
    guard let slash = unescaped.utf8.lastIndex(of: UInt8(ascii: "/")) else { return self }
    let name = unescaped[unescaped.utf8.index(after: slash)...]
    return name.isEmpty ? self : ForeignText(name)
  }

  /// Whether the text is `text`, as it came.
  public static func == (foreign: ForeignText, text: String) -> Bool { foreign.unescaped == text }

  public static func != (foreign: ForeignText, text: String) -> Bool { foreign.unescaped != text }
}

extension ForeignText: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable, TextOutputStreamable {
  public var description: String { escaped }
  public var debugDescription: String { "\"\(escaped)\"" }
  public var customMirror: Mirror { Mirror(self, children: []) }
  public func write<Target: TextOutputStream>(to target: inout Target) { target.write(escaped) }
}

/// A literal is a foreign text or a String by what is asked for. What is foreign in it becomes a part of the one as it
/// came, and of the other by its escapes: `let path: ForeignText = "\(directory)/\(name)"` is a path to open.
extension ForeignText: ExpressibleByStringInterpolation {
  public init(stringLiteral text: String) { unescaped = text }

  public init(stringInterpolation parts: StringInterpolation) { unescaped = parts.text }

  public struct StringInterpolation: StringInterpolationProtocol {
    fileprivate var text = ""

    public init(literalCapacity: Int, interpolationCount: Int) { text.reserveCapacity(literalCapacity) }

    public mutating func appendLiteral(_ literal: String) { text += literal }

    public mutating func appendInterpolation(_ part: ForeignText) { text.append(part.unescaped) }

    public mutating func appendInterpolation(_ part: some CustomStringConvertible) { text.append(part.description) }
  }
}

extension Sequence<ForeignText> {
  /// The texts, as they came, with `separator` between them.
  public func joined(separator: String) -> ForeignText {
    ForeignText(map(\.unescaped).joined(separator: separator))
  }
}

extension ForeignText: Comparable {
  public static func < (a: ForeignText, b: ForeignText) -> Bool { a.unescaped < b.unescaped }
}

extension String {
  /// The text with escapes for all that would do more than show itself (ForeignText). Text that has been escaped stays
  /// as it is.
  public var escapedAsForeign: String {
    if isInert { return self }
    var result = ""
    var inspection = Inspection()
    for scalar in unicodeScalars {
      if let byte = scalar.originalByte {
        result += byte.escaped
        inspection = Inspection()
      } else if inspection.passes(scalar) {
        result.unicodeScalars.append(scalar)
      } else {
        result += "\\u{\(String(scalar.value, radix: 16))}"
        inspection = Inspection()
      }
    }
    return result
  }

  /// Whether all of the text only shows itself, on one line.
  public var isInert: Bool {
    // Nearly all text is ASCII.
    if utf8.allSatisfy({ $0 >= 0x20 && $0 < 0x7F }) { return true }
    var inspection = Inspection()
    return unicodeScalars.allSatisfy { inspection.passes($0) }
  }
}

/// Looks at the characters of a text in their order.
private struct Inspection {
  /// Marks that the last letter may still get. Of more than a few, a terminal draws over the lines around; and a mark
  /// without a letter of the text would be drawn upon what stands before the text.
  private var marks = 0
  private static let markLimit = 4

  mutating func passes(_ scalar: Unicode.Scalar) -> Bool {
    guard scalar.isInert else { return false }
    if scalar.value < 0x300 || !scalar.properties.isGraphemeExtend {
      marks = Self.markLimit
      return true
    }
    guard marks > 0 else { return false }
    marks &-= 1
    return true
  }
}

extension Unicode.Scalar {
  /// Whether the character shows itself, and does nothing else: no control, no mark of direction or other format, no
  /// line separator, nothing that is invisible or that Unicode has not assigned.
  public var isInert: Bool {
    if value < 0x7F { return value >= 0x20 }
    if value >= 0xA1, value < 0x300 { return value != 0xAD }
    switch properties.generalCategory {
    case .control, .format, .lineSeparator, .paragraphSeparator, .privateUse, .surrogate, .unassigned: return false
    default: return !properties.isDefaultIgnorableCodePoint
    }
  }
}
