// SPDX-License-Identifier: Apache-2.0
// The environment of this process, which the program that `run` starts inherits: bytes, passed on unchanged.
//
// Names and values are text that leads back to its bytes (ByteText). Entries that nobody here sets keep their place and
// their bytes, also entries that are no variables. Only to be used while the process has one thread.

import ByteText
import Glibc
import SharedLayout

enum Variables {
  /// The value of a variable. Of several variables of one name the last counts, as for the dynamic linker and the
  /// agent.
  static func value(of name: String) -> String? {
    let prefix = "\(name)=".originalBytes
    var found: String?
    forEach { entry in
      if starts(entry, with: prefix) { found = String(reversibly: entry + prefix.count) }  // bounded: in the entry
    }
    return found
  }

  /// The value of a variable; nil also if the value is empty.
  static func nonEmptyValue(of name: String) -> String? { value(of: name).flatMap { $0.isEmpty ? nil : $0 } }

  /// Sets a variable in its place, or at the end. Of several variables of its name, one is left.
  static func set(_ name: String, to value: String) {
    let prefix = "\(name)=".originalBytes
    var count = 0
    forEach { entry in if starts(entry, with: prefix) { count &+= 1 } }
    if count > 1 { unsetenv(name.originalPath) }
    setenv(name.originalPath, value.originalPath, 1)
  }

  /// Names of variables that begin as the names of settings do and are no settings.
  static var unknownSettings: [String] {
    var names: [String] = []
    forEach { entry in
      var value: UnsafePointer<CChar>?
      guard allocs_setting_of(entry, &value) == -2 else { return }
      let text = String(reversibly: entry)
      guard let end = text.utf8.firstIndex(of: UInt8(ascii: "=")) else { return }
      names.append(String(text[..<end]))
    }
    return names
  }

  private static func forEach(_ body: (UnsafePointer<CChar>) -> Void) {
    var next = environ
    while let entry = next.pointee {
      body(entry)
      next += 1  // bounded: up to the null pointer at the end
    }
  }

  private static func starts(_ entry: UnsafePointer<CChar>, with prefix: [UInt8]) -> Bool {
    // No prefix contains a zero, which ends the entry, so nothing behind the end is read.
    for (index, byte) in prefix.enumerated() where UInt8(bitPattern: entry[index]) != byte { return false }
    return true
  }
}

/// Strings as execve(2) takes them, with a null pointer behind the last.
struct ArgumentVector: ~Copyable {
  let pointers: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>
  private let count: Int

  init(_ arguments: [String]) {
    // bounded: pointers to as many texts, and one more
    count = arguments.count
    pointers = .allocate(capacity: count + 1)
    for (index, argument) in arguments.enumerated() { (pointers + index).initialize(to: strdup(argument.originalPath)) }
    (pointers + count).initialize(to: nil)
  }

  deinit {
    for index in 0..<count { free(pointers[index]) }  // bounded: a count of texts
    pointers.deallocate()
  }
}
