// SPDX-License-Identifier: Apache-2.0
// Mangled names of D to what people write: qualified names with the arguments of templates, as
// `std.array.Appender!(char[]).put`. Parameters and results are read, and left out: a name is what tables show.
//
// GNU libiberty has a reading of D's names, too, which can't be told to stop: references to earlier parts of a name may
// double it again and again. This one ends after a number of steps, and with a number of bytes. What it cannot read it
// leaves as it is. The form of the names: https://dlang.org/spec/abi.html#name_mangling

/// Reads one name. No step leaves the name, whatever it holds.
struct DDemangling {
  /// The name does not follow the form, or is too long or too deep.
  private struct Unreadable: Error {}

  private static let mostSteps = 20_000
  private static let deepest = 100
  private static let mostBytes = 16_384

  private let name: [UInt8]
  private var index = 0
  /// One past the last byte that may be read: within a template instance, its end.
  private var end: Int
  private var result: [UInt8] = []
  private var steps = 0
  private var depth = 0
  /// A reference within a referenced part leads further back than that reference: so none is endless.
  private var lastReference: Int

  /// The name as D writes it; nil if `mangled` is none of D's, or can't be read.
  static func demangled(_ mangled: some Collection<UInt8>) -> String? {
    if mangled.elementsEqual("_Dmain".utf8) { return "D main" }
    guard mangled.count > 3, mangled.starts(with: "_D".utf8) else { return nil }
    var reading = DDemangling(Array(mangled))
    do throws(Unreadable) {
      try reading.mangledName()
    } catch {
      return nil
    }
    // What compilers add to the names of clones.
    let rest = reading.name[reading.index...]
    guard rest.isEmpty || rest.first == UInt8(ascii: ".") else { return nil }
    reading.result.append(contentsOf: rest)
    return String(decoding: reading.result, as: UTF8.self)
  }

  private init(_ name: [UInt8]) {
    self.name = name
    end = name.count
    lastReference = name.count
  }

  // MARK: bytes

  private func peek(_ ahead: Int = 0) -> UInt8 {
    let place = index &+ ahead
    return place >= 0 && place < end ? name[place] : 0
  }

  private func isDigit(_ byte: UInt8) -> Bool { byte &- UInt8(ascii: "0") < 10 }

  private func hasPrefix(_ text: StaticString) -> Bool {
    text.withUTF8Buffer { name[..<end][min(index, end)...].starts(with: $0) }
  }

  private mutating func take(_ byte: Unicode.Scalar) -> Bool {
    guard peek() == UInt8(ascii: byte) else { return false }
    index &+= 1
    return true
  }

  private mutating func next() throws(Unreadable) -> UInt8 {
    guard index < end else { throw Unreadable() }
    defer { index &+= 1 }
    return name[index]
  }

  private mutating func append(_ text: String) throws(Unreadable) {
    result += text.utf8
    guard result.count <= Self.mostBytes else { throw Unreadable() }
  }

  private mutating func step() throws(Unreadable) {
    steps &+= 1
    guard steps <= Self.mostSteps, depth <= Self.deepest else { throw Unreadable() }
  }

  /// A number, which is below the length of the longest name.
  private mutating func number() throws(Unreadable) -> Int {
    guard isDigit(peek()) else { throw Unreadable() }
    var number = 0
    while isDigit(peek()) {
      number = number &* 10 &+ Int(truncatingIfNeeded: peek() & 0x0F)
      guard number < 1 << 32 else { throw Unreadable() }
      index &+= 1
    }
    return number
  }

  /// The place that the reference here leads to, and moves behind it.
  private mutating func reference() throws(Unreadable) -> Int {
    let start = index
    guard take("Q") else { throw Unreadable() }
    var distance = 0
    while true {
      let byte = try next()
      guard distance < 1 << 24 else { throw Unreadable() }
      if byte &- UInt8(ascii: "a") < 26 {
        distance = distance &* 26 &+ Int(truncatingIfNeeded: byte &- UInt8(ascii: "a"))
        break
      }
      guard byte &- UInt8(ascii: "A") < 26 else { throw Unreadable() }
      distance = distance &* 26 &+ Int(truncatingIfNeeded: byte &- UInt8(ascii: "A"))
    }
    guard distance > 0, distance <= start else { throw Unreadable() }
    return start &- distance
  }

  /// Reads at another place of the name, and comes back.
  private mutating func at(
    _ place: Int, _ body: (inout DDemangling) throws(Unreadable) -> Void
  ) throws(Unreadable) {
    let (index, end, last) = (self.index, self.end, lastReference)
    guard place < last else { throw Unreadable() }
    (self.index, self.end, lastReference) = (place, name.count, place)
    depth &+= 1
    try body(&self)
    depth &-= 1
    (self.index, self.end, lastReference) = (index, end, last)
  }

  /// Reads without a result.
  private mutating func skipping(_ body: (inout DDemangling) throws(Unreadable) -> Void) throws(Unreadable) {
    let length = result.count
    try body(&self)
    result.removeSubrange(min(length, result.count)...)
  }

  // MARK: names

  private mutating func mangledName() throws(Unreadable) {
    try step()
    guard take("_"), take("D") else { throw Unreadable() }
    depth &+= 1
    try qualifiedName()
    // Data that compilers make have no type.
    if !take("Z"), index < end, peek() != UInt8(ascii: ".") {
      try skipping { (reading) throws(Unreadable) in try reading.type() }
    }
    depth &-= 1
  }

  private var isAtSymbol: Bool {
    if isDigit(peek()) || hasPrefix("__T") || hasPrefix("__U") { return true }
    guard peek() == UInt8(ascii: "Q") else { return false }
    var copy = self
    guard let place = try? copy.reference() else { return false }
    return isDigit(name[place])
  }

  private mutating func qualifiedName() throws(Unreadable) {
    var isFirst = true
    repeat {
      try step()
      // Anonymous scopes.
      if take("0") { continue }
      if !isFirst { try append(".") }
      isFirst = false
      try identifier()
      guard peek() == UInt8(ascii: "M") || Self.isCallConvention(peek()) else { continue }
      // The parameters of a function, if more of the name follows: of a function within it, or the result's type.
      let before = self
      do throws(Unreadable) {
        if take("M") { try modifiers() }
        try skipping { (reading) throws(Unreadable) in try reading.functionType(hasResult: false) }
        guard index < end else { throw Unreadable() }
      } catch {
        let steps = self.steps
        self = before
        self.steps = steps
      }
    } while isAtSymbol
    guard !isFirst else { throw Unreadable() }
  }

  private mutating func identifier() throws(Unreadable) {
    try step()
    if peek() == UInt8(ascii: "Q") {
      let place = try reference()
      return try at(place) { (reading) throws(Unreadable) in
        guard reading.isDigit(reading.peek()) else { throw Unreadable() }
        try reading.identifier()
      }
    }
    if hasPrefix("__T") || hasPrefix("__U") { return try templateInstance() }
    let length = try number()
    guard length > 0, length <= end &- index else { throw Unreadable() }
    let close = index &+ length
    if length > 4, hasPrefix("__T") || hasPrefix("__U") {
      let outer = end
      end = close
      try templateInstance()
      guard index == close else { throw Unreadable() }
      end = outer
      return
    }
    let text = name[index..<max(index, close)]
    guard text.allSatisfy({ $0 > 0x20 && $0 != 0x7F }) else { throw Unreadable() }
    index = close
    switch String(decoding: text, as: UTF8.self) {
    case "__ctor": try append("this")
    case "__dtor": try append("~this")
    case "__postblit": try append("this(this)")
    case let text: try append(text)
    }
  }

  private mutating func templateInstance() throws(Unreadable) {
    depth &+= 1
    index &+= 3
    try identifier()
    try append("!(")
    var isFirst = true
    while !take("Z") {
      try step()
      if !isFirst { try append(", ") }
      isFirst = false
      _ = take("H")
      switch try next() {
      case UInt8(ascii: "T"): try type()
      case UInt8(ascii: "S"): try symbolArgument()
      case UInt8(ascii: "V"):
        let kind = peek()
        try skipping { (reading) throws(Unreadable) in try reading.type() }
        try value(ofType: kind)
      case UInt8(ascii: "X"):
        let length = try number()
        guard length <= end &- index else { throw Unreadable() }
        let text = name[index..<max(index, index &+ length)]
        index &+= length
        try append(String(decoding: text, as: UTF8.self))
      default: throw Unreadable()
      }
    }
    try append(")")
    depth &-= 1
  }

  private mutating func symbolArgument() throws(Unreadable) {
    if hasPrefix("_D") { return try mangledName() }
    // Compilers before 2.077 wrote a name's length before it.
    let before = self
    if isDigit(peek()), let length = try? number(), hasPrefix("_D"), length <= end &- index {
      let (close, outer) = (index &+ length, end)
      end = close
      try mangledName()
      guard index == close else { throw Unreadable() }
      end = outer
      return
    }
    self = before
    try qualifiedName()
  }

  // MARK: types

  private static func isCallConvention(_ byte: UInt8) -> Bool { "FUWVRY".utf8.contains(byte) }

  /// Of `this`: they are read, and left out.
  private mutating func modifiers() throws(Unreadable) {
    while true {
      if take("x") || take("y") || take("O") { continue }
      guard peek() == UInt8(ascii: "N"), peek(1) == UInt8(ascii: "g") else { return }
      index &+= 2
    }
  }

  private mutating func type() throws(Unreadable) {
    try step()
    depth &+= 1
    let byte = try next()
    switch byte {
    case UInt8(ascii: "x"): try wrapped("const(")
    case UInt8(ascii: "y"): try wrapped("immutable(")
    case UInt8(ascii: "O"): try wrapped("shared(")
    case UInt8(ascii: "N"):
      switch try next() {
      case UInt8(ascii: "g"): try wrapped("inout(")
      case UInt8(ascii: "h"): try wrapped("__vector(")
      case UInt8(ascii: "n"): try append("noreturn")
      default: throw Unreadable()
      }
    case UInt8(ascii: "A"):
      try type()
      try append("[]")
    case UInt8(ascii: "G"):
      let count = try number()
      try type()
      try append("[\(count)]")
    case UInt8(ascii: "H"):
      // The key's type comes first, and is written behind.
      let start = result.count
      try type()
      let key = Array(result[start...])
      result.removeSubrange(start...)
      try type()
      try append("[\(String(decoding: key, as: UTF8.self))]")
    case UInt8(ascii: "P") where Self.isCallConvention(peek()): try functionType(hasResult: true, word: " function")
    case UInt8(ascii: "P"):
      try type()
      try append("*")
    case UInt8(ascii: "D"):
      try modifiers()
      if peek() == UInt8(ascii: "Q") {
        let place = try reference()
        try at(place) { (reading) throws(Unreadable) in
          try reading.functionType(hasResult: true, word: " delegate")
        }
      } else {
        try functionType(hasResult: true, word: " delegate")
      }
    case UInt8(ascii: "I"), UInt8(ascii: "C"), UInt8(ascii: "S"), UInt8(ascii: "E"), UInt8(ascii: "T"):
      try qualifiedName()
    case UInt8(ascii: "B"):
      let count = try number()
      try append("tuple(")
      // Each type takes a step, of which there are few.
      for place in 0..<max(0, count) {
        if place > 0 { try append(", ") }
        try type()
      }
      try append(")")
    case UInt8(ascii: "Q"):
      index &-= 1
      let place = try reference()
      try at(place) { (reading) throws(Unreadable) in try reading.type() }
    case _ where Self.isCallConvention(byte):
      index &-= 1
      try functionType(hasResult: true)
    case UInt8(ascii: "z"):
      let size = try next()
      try append(size == UInt8(ascii: "i") ? "cent" : "ucent")
    default:
      guard let word = Self.basicTypes[byte] else { throw Unreadable() }
      try append(word)
    }
    depth &-= 1
  }

  private mutating func wrapped(_ word: String) throws(Unreadable) {
    try append(word)
    try type()
    try append(")")
  }

  private static let basicTypes: [UInt8: String] = {
    let words = [
      "v": "void", "g": "byte", "h": "ubyte", "s": "short", "t": "ushort", "i": "int", "k": "uint", "l": "long",
      "m": "ulong", "f": "float", "d": "double", "e": "real", "o": "ifloat", "p": "idouble", "j": "ireal",
      "q": "cfloat", "r": "cdouble", "c": "creal", "b": "bool", "a": "char", "u": "wchar", "w": "dchar",
      "n": "typeof(null)",
    ]
    return Dictionary(words.compactMap { word in word.key.utf8.first.map { ($0, word.value) } }) { first, _ in first }
  }()

  private mutating func functionType(hasResult: Bool, word: String = "") throws(Unreadable) {
    try step()
    guard Self.isCallConvention(try next()) else { throw Unreadable() }
    // Attributes: pure, nothrow and so on; Ng, Nh, Nk and Nn begin a parameter.
    while peek() == UInt8(ascii: "N"), !"ghkn".utf8.contains(peek(1)) {
      guard peek(1) &- UInt8(ascii: "a") < 26 else { throw Unreadable() }
      index &+= 2
    }
    let start = result.count
    try append("\(word)(")
    var isFirst = true
    while true {
      try step()
      if take("Z") { break }
      if take("X") || take("Y") {
        try append("...")
        break
      }
      if !isFirst { try append(", ") }
      isFirst = false
      while true {
        if take("M") || take("I") || take("J") || take("K") || take("L") { continue }
        guard peek() == UInt8(ascii: "N"), peek(1) == UInt8(ascii: "k") else { break }
        index &+= 2
      }
      try type()
    }
    try append(")")
    guard hasResult else { return }
    // The result's type comes last, and is written first.
    let parameters = Array(result[start...])
    result.removeSubrange(start...)
    try type()
    try append(String(decoding: parameters, as: UTF8.self))
  }

  // MARK: values

  private mutating func value(ofType kind: UInt8) throws(Unreadable) {
    try step()
    depth &+= 1
    let byte = peek()
    switch byte {
    case UInt8(ascii: "n"):
      index &+= 1
      try append("null")
    case UInt8(ascii: "i"), UInt8(ascii: "0")...UInt8(ascii: "9"):
      _ = take("i")
      try digits(ofType: kind)
    case UInt8(ascii: "N"):
      index &+= 1
      try append("-")
      try digits(ofType: kind)
    case UInt8(ascii: "e"), UInt8(ascii: "c"):
      // A floating-point number in hexadecimal digits; a complex one has two of them.
      repeat {
        index &+= 1
        while isDigit(peek()) || "ABCDEFINP".utf8.contains(peek()) { try append(String(UnicodeScalar(try next()))) }
      } while peek() == UInt8(ascii: "c")
    case UInt8(ascii: "a"), UInt8(ascii: "w"), UInt8(ascii: "d"): try string()
    case UInt8(ascii: "A"), UInt8(ascii: "S"):
      index &+= 1
      let count = try number()
      let isMap = byte == UInt8(ascii: "A") && kind == UInt8(ascii: "H")
      try append(byte == UInt8(ascii: "A") ? "[" : "(")
      for place in 0..<max(0, count) {
        if place > 0 { try append(", ") }
        try value(ofType: 0)
        guard isMap else { continue }
        try append(":")
        try value(ofType: 0)
      }
      try append(byte == UInt8(ascii: "A") ? "]" : ")")
    case UInt8(ascii: "f"):
      index &+= 1
      try mangledName()
    default: throw Unreadable()
    }
    depth &-= 1
  }

  private mutating func digits(ofType kind: UInt8) throws(Unreadable) {
    let start = index
    while isDigit(peek()) { index &+= 1 }
    guard index > start else { throw Unreadable() }
    let text = String(decoding: name[start..<max(start, index)], as: UTF8.self)
    let isTruth = kind == UInt8(ascii: "b") && (text == "0" || text == "1")
    try append(isTruth ? (text == "1" ? "true" : "false") : text)
  }

  private mutating func string() throws(Unreadable) {
    index &+= 1
    let count = try number()
    guard take("_"), count &* 2 <= end &- index else { throw Unreadable() }
    var bytes: [UInt8] = []
    for _ in 0..<max(0, count) {
      let pair = String(decoding: [try next(), try next()], as: UTF8.self)
      guard let byte = UInt8(pair, radix: 16) else { throw Unreadable() }
      bytes.append(byte)
    }
    try append("\"\(String(decoding: bytes, as: UTF8.self))\"")
  }
}
