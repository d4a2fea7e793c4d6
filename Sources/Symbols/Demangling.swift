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

private func swift(_ name: UnsafePointer<CChar>, _ length: Int) -> String? {
  guard let result = cdemangle_swift(name, length) else { return nil }
  defer { free(result) }
  return strnlen(result, longestName &+ 1) > longestName ? nil : String(cString: result)
}
