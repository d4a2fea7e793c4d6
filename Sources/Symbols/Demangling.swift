// SPDX-License-Identifier: Apache-2.0
// Mangled names of C++, Rust and Swift to what people write.

import CDemangle
import Glibc

/// Longest name, in bytes, that is demangled, and longest result: above these the mangled name stands.
private let longestMangledName = 8_192
private let longestName = 16_384

/// The name as its language writes it, or `name` itself if it is of no known mangling scheme. Thread-safe.
public func demangled(_ name: String) -> String {
  name.withCString { demangled(cString: $0) }
}

func demangled(cString name: UnsafePointer<CChar>) -> String {
  let length = strnlen(name, longestMangledName &+ 1)
  guard length > 2, length <= longestMangledName else { return String(bounded: name) }
  switch (UInt8(bitPattern: name[0]), UInt8(bitPattern: name[1])) {
  case (UInt8(ascii: "_"), UInt8(ascii: "Z")), (UInt8(ascii: "_"), UInt8(ascii: "R")):
    return cxxOrRust(name) ?? String(bounded: name)
  case (UInt8(ascii: "$"), _), (UInt8(ascii: "_"), UInt8(ascii: "$")):
    return swift(name, length) ?? String(bounded: name)
  default:
    return String(bounded: name)
  }
}

private func cxxOrRust(_ name: UnsafePointer<CChar>) -> String? {
  withUnsafeTemporaryAllocation(of: CChar.self, capacity: longestName) { buffer in
    let size = cdemangle_cxx_or_rust(name, buffer.baseAddress!, buffer.count)
    guard size > 0 else { return nil }
    return String(decoding: UnsafeRawBufferPointer(buffer)[..<size], as: UTF8.self)
  }
}

/// Most parts that a Swift name may stand for (`unfoldsTooFar`); a demangler passes over as many in a fraction of a
/// second. Of the 185,000 names of allocsd itself, some 30 stand for more by that count.
private let mostParts = 1 << 22

/// Whether a Swift name may stand for more parts than `mostParts`: then it is not demangled, as the demangler takes
/// time for each of them, and a name of 200 bytes may stand for 2^40.
///
/// A name grows beyond its length by substitutions, "A…": each puts a part that came before in another place. So
/// whatever comes between two parts that end multiplies the size by the number of its substitutions and one at most.
/// Any letter may end a part. Text of identifiers is passed over, unless it might be read in another way: behind a
/// number of one of the operators that begin with T, or where the number is an index, which ends with "_".
private func unfoldsTooFar(_ name: UnsafeBufferPointer<CChar>) -> Bool {
  var rest = name.lazy.map { UInt8(bitPattern: $0) }[...]
  var parts = 1
  var substitutions = 0
  var skips = true
  func isDigit(_ byte: UInt8) -> Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) }
  func number() -> Int {
    var value = 0
    while let byte = rest.first, isDigit(byte) {
      // A demangler takes 2,048 repetitions at most, and no name here is longer than 8,192 bytes.
      value = min(value &* 10 &+ Int(byte &- UInt8(ascii: "0")), 10_000)
      rest = rest.dropFirst()
    }
    return value
  }
  while let byte = rest.first {
    if isDigit(byte) {
      let size = number()
      // An identifier that begins with 0 has its text in pieces, each with its own size.
      if skips, size > 0, size <= rest.count, rest.first != UInt8(ascii: "_") { rest = rest.dropFirst(size) }
      continue
    }
    rest = rest.dropFirst()
    switch byte {
    case UInt8(ascii: "A"):
      // Several in a row: each but the last is of a small letter, and may have a number of times before it.
      var isLast = false
      while !isLast {
        let times = max(number(), 1)
        guard let letter = rest.first else { break }
        isLast = !(UInt8(ascii: "a")...UInt8(ascii: "z")).contains(letter)
        substitutions &+= times
        rest = rest.dropFirst()
      }
    case UInt8(ascii: "S"):
      // A type of the standard library, which refers to nothing; perhaps several times.
      _ = number()
      rest = rest.dropFirst()
    default:
      if byte == UInt8(ascii: "T") { skips = false }
      let (product, overflow) = parts.multipliedReportingOverflow(by: 1 &+ substitutions)
      if overflow || product > mostParts { return true }
      (parts, substitutions) = (product, 0)
    }
  }
  return false
}

private func swift(_ name: UnsafePointer<CChar>, _ length: Int) -> String? {
  guard !unfoldsTooFar(UnsafeBufferPointer(start: name, count: length)) else { return nil }
  guard let result = cdemangle_swift(name, length) else { return nil }
  defer { free(result) }
  return strnlen(result, longestName &+ 1) > longestName ? nil : String(cString: result)
}
