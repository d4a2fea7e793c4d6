// SPDX-License-Identifier: Apache-2.0
// The plain name of a function: a demangled name without its types. Patterns are compared with plain names.
//
//   void* std::__new_allocator<char>::allocate(unsigned long, void const*)   →  std::__new_allocator::allocate
//   generic specialization <Swift.Int> of Swift.Array.append(__owned A) -> () →  Swift.Array.append
//   alloc::raw_vec::RawVec<T,A>::grow_one::h0123456789abcdef                 →  alloc::raw_vec::RawVec::grow_one
//   std.array.Appender!(char[]).put                                          →  std.array.Appender.put
//   zmalloc_usable.part.0                                                    →  zmalloc_usable
//
// Names come from any file, so every input has some result. A name that isn't understood stays as it is, or loses too
// much; then no pattern matches it.

package enum FunctionName {
  /// Longest name, in bytes, that is taken apart.
  package static let limit = 1 << 14

  /// The plain name in the demangled `name`.
  package static func plain(_ name: [UInt8]) -> [UInt8] {
    // A Rust implementation of a trait, <T as Trait>::f, has no name apart from its types.
    guard name.count <= limit, name.first != UInt8(ascii: "<") else { return name }
    var scan = Scan(name)
    scan.run()
    var start = 0
    var end = scan.result.count
    while end > 0, scan.result[end &- 1] == UInt8(ascii: " ") { end &-= 1 }
    // The result's type, and words such as static, stand before the name.
    let head = min(scan.operatorStart ?? end, end)
    if let blank = scan.result[..<head].lastIndex(of: UInt8(ascii: " ")) { start = blank &+ 1 }
    while start < end, scan.result[start] == UInt8(ascii: ":") || scan.result[start] == UInt8(ascii: ".") {
      start &+= 1
    }
    var plain = Array(scan.result[..<end].dropFirst(start))  // bounded: start is 0 to end
    for namespace in ["std::__cxx11::", "std::__1::"] where plain.starts(with: namespace.utf8) {
      plain.removeSubrange(5..<namespace.utf8.count)  // bounded: behind the five of std::
    }
    dropSuffix(&plain)
    return plain
  }

  /// What compilers add to the names of clones, and Rust to all names.
  private static func dropSuffix(_ name: inout [UInt8]) {
    for dot in name.indices.dropFirst() where name[dot] == UInt8(ascii: ".") {
      let rest = name[dot...].dropFirst()
      if isCloneSuffix(rest) {
        name.removeSubrange(dot...)
        break
      }
    }
    let hash = name.suffix(19)
    if hash.count == 19, hash.starts(with: "::h".utf8), hash.dropFirst(3).allSatisfy(isHexadecimal) {
      name.removeLast(19)
    }
  }

  /// Whether `text`, which stood behind a dot, is what a compiler adds to the name of a clone.
  package static func isCloneSuffix(_ text: ArraySlice<UInt8>) -> Bool {
    cloneSuffixes.contains { text.starts(with: $0.utf8) }
  }

  private static func isHexadecimal(_ byte: UInt8) -> Bool {
    byte &- UInt8(ascii: "0") < 10 || (byte | 0x20) &- UInt8(ascii: "a") < 6
  }

  private static let cloneSuffixes = ["part.", "constprop.", "isra.", "cold", "lto_priv.", "localalias", "llvm."]

  /// Copies a name without its bracketed parts.
  private struct Scan {
    private let name: [UInt8]
    private var index = 0
    private(set) var result: [UInt8] = []
    private(set) var operatorStart: Int?

    init(_ name: [UInt8]) {
      self.name = name
    }

    mutating func run() {
      while index < name.count {
        let byte = name[index]
        switch byte {
        case UInt8(ascii: "<"): skipGroup(UInt8(ascii: "<"), UInt8(ascii: ">"))
        case UInt8(ascii: "("):
          if result.last == UInt8(ascii: ".") {
            copyPrivateName()
            continue
          }
          // The arguments of a template of D.
          if result.last == UInt8(ascii: "!") {
            result.removeLast()
            skipGroup(UInt8(ascii: "("), UInt8(ascii: ")"))
            continue
          }
          // (anonymous namespace)::f and (extension in M):T.f go on behind the parenthesis; parameters end the name.
          skipGroup(UInt8(ascii: "("), UInt8(ascii: ")"))
          guard index < name.count, name[index] == UInt8(ascii: ":") else { return }
          if result.isEmpty || result.last == UInt8(ascii: ":") { skipColons() }
        case UInt8(ascii: "{"):
          let start = index
          skipGroup(UInt8(ascii: "{"), UInt8(ascii: "}"))
          result += name[start..<index]  // bounded: a group takes its bracket at least
        case UInt8(ascii: "["):
          if hasPrefix("[clone") { return }
          if hasPrefix("[abi:") {
            skipGroup(UInt8(ascii: "["), UInt8(ascii: "]"))
          } else {
            copy()
          }
        case UInt8(ascii: " "):
          // The type of a Swift property.
          if hasPrefix(" : ") { return }
          copy()
        case UInt8(ascii: "o"):
          if isAtWord, hasPrefix("operator"), index &+ 8 >= name.count || !isIdentifier(name[index &+ 8]) {
            copyOperator()
          } else {
            copy()
          }
        default: copy()
        }
      }
    }

    private mutating func copy() {
      result.append(name[index])
      index += 1
    }

    /// A private name of Swift: M.(f in _0123).
    private mutating func copyPrivateName() {
      let start = index
      skipGroup(UInt8(ascii: "("), UInt8(ascii: ")"))
      let inner = name[..<index].dropFirst(start &+ 1)  // bounded: start is an index
      result += inner.prefix { $0 != UInt8(ascii: " ") && $0 != UInt8(ascii: ")") }
    }

    private mutating func skipColons() {
      while index < name.count, name[index] == UInt8(ascii: ":") { index += 1 }
    }

    private mutating func copyOperator() {
      operatorStart = result.count
      for _ in 0..<8 { copy() }
      for word in [" new", " delete"] where hasPrefix(word) {
        for _ in 0..<word.utf8.count { copy() }
      }
      for word in ["()", "[]"] where hasPrefix(word) {
        copy()
        copy()
        return
      }
      // Arguments of a template follow at once, as in operator+<char>, but never an operator that begins with <.
      let signs = index < name.count && name[index] == UInt8(ascii: "<") ? "<=>" : ">=-+*/%^&|~!,"
      while index < name.count, signs.utf8.contains(name[index]) { copy() }
    }

    /// Moves behind the bracket that closes the one at `index`; to the end if none does.
    private mutating func skipGroup(_ open: UInt8, _ close: UInt8) {
      var depth = 0
      while index < name.count {
        let byte = name[index]
        if byte == open {
          depth += 1
        } else if byte == close, name[index &- 1] != UInt8(ascii: "-") {  // not the arrow of a function's type
          depth &-= 1
        }
        index += 1
        if depth == 0 { return }
      }
    }

    private var isAtWord: Bool { result.last.map { !isIdentifier($0) } ?? true }

    private func isIdentifier(_ byte: UInt8) -> Bool {
      byte &- UInt8(ascii: "0") < 10 || (byte | 0x20) &- UInt8(ascii: "a") < 26 || byte == UInt8(ascii: "_")
        || byte == UInt8(ascii: "$") || byte >= 0x80
    }

    private func hasPrefix(_ text: String) -> Bool { name[index...].starts(with: text.utf8) }
  }
}
