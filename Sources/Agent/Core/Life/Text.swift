// SPDX-License-Identifier: Apache-2.0
// Text: short text, made without allocation: names of files, and the lines that ALLOCS_VERBOSE asks
// for.

import AgentMachine
import SharedLayout

/// Up to 255 bytes of text, zero terminated; bytes that do not fit are left out.
struct Text {
  static let capacity = 255
  private var bytes = InlineArray<256, UInt8>(repeating: 0)
  private(set) var count = 0

  subscript(index: Int) -> UInt8 { bytes[index] }

  mutating func append(byte: UInt8) {
    guard count < Self.capacity else { return }
    bytes[count] = byte
    count += 1
  }
  mutating func append(_ text: StaticString) {
    for index in 0..<text.utf8CodeUnitCount { append(byte: text.utf8Start[index]) }
  }
  mutating func append(_ number: UInt64) {
    if number >= 10 { append(number / 10) }
    append(byte: UInt8(ascii: "0") + UInt8(number % 10))
  }
  func withCString<Result>(_ body: (UnsafePointer<CChar>) -> Result) -> Result {
    withUnsafePointer(to: bytes) { body(UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self)) }
  }
  mutating func append(cString text: UnsafePointer<CChar>) {
    var next = text
    while next.pointee != 0 {
      append(byte: UInt8(bitPattern: next.pointee))
      next += 1
    }
  }

  /// Adds the meaning of a negated error number, in parentheses; nothing for a number that is no
  /// error.
  mutating func append(error code: Int) {
    guard code < 0 else { return }
    append(" (")
    switch -code {
    case 1: append("operation not permitted")
    case 2: append("no such file or directory")
    case 5: append("input/output error")
    case 11: append("resource temporarily unavailable")
    case 12: append("cannot allocate memory")
    case 13: append("permission denied")
    case 17: append("file exists")
    case 20: append("not a directory")
    case 21: append("is a directory")
    case 22: append("invalid argument")
    case 23: append("too many open files in system")
    case 24: append("too many open files")
    case 27: append("file too large")
    case 28: append("no space left on device")
    case 30: append("read-only file system")
    case 36: append("file name too long")
    case 38: append("function not implemented")
    case 40: append("too many levels of symbolic links")
    case 95: append("operation not supported")
    case 122: append("disk quota exceeded")
    default:
      append("error ")
      append(UInt64(-code))
    }
    append(")")
  }

  /// Writes a line about the process to standard error, if ALLOCS_VERBOSE asks for it. The line may
  /// have names in it that the program chose: bytes that a terminal would act upon become question
  /// marks.
  func sayOnRequest() {
    guard allocs_process().pointee.verbose != 0 else { return }
    var line = Text()
    line.append("allocs: pid ")
    line.append(UInt64(System.processID))
    // One byte is left free for the end of the line.
    for index in 0..<count where line.count < Self.capacity - 1 {
      let byte = self[index]
      line.append(byte: byte < 0x20 || byte == 0x7F ? UInt8(ascii: "?") : byte)
    }
    line.append("\n")
    let standardError = 2
    line.withCString {
      _ = System.write(standardError, UnsafeRawPointer($0).assumingMemoryBound(to: UInt8.self), line.count)
    }
  }
}
