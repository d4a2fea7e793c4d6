// SPDX-License-Identifier: Apache-2.0
// ELF files with debug information, made up from a stream of choices: sound by construction, and then with what no
// compiler writes at the places that the choices name: extreme numbers, nesting, circles of references, huge counts,
// wrong forms, tables that lie one over the other.

import TestSupport

/// Choices one after another, from the bytes of a fuzzer; all zero at their end.
struct Choices {
  private var bytes: ArraySlice<UInt8>

  init(_ bytes: ArraySlice<UInt8>) { self.bytes = bytes }

  var isEmpty: Bool { bytes.isEmpty }

  mutating func byte() -> UInt8 { bytes.popFirst() ?? 0 }

  /// From 0 to `count` - 1.
  mutating func below(_ count: Int) -> Int { Int(byte()) % max(count, 1) }

  /// One time in `count`.
  mutating func rarely(_ count: Int) -> Bool { bytes.isEmpty ? false : below(count) == count - 1 }

  mutating func one<Element>(of elements: [Element]) -> Element { elements[below(elements.count)] }

  /// Numbers at which arithmetic turns over, and those that lead to somewhere.
  mutating func number() -> UInt64 {
    let kind = below(24)
    switch kind {
    case 0: return 0
    case 1: return .max
    case 2: return 1 << 63
    case 3: return 1 << 63 - 1
    case 4: return 1 << 63 + 64
    case 5: return UInt64(UInt32.max)
    case 6: return 1 << 31
    case 7: return 1 << 31 - 1
    case 8: return UInt64.max - UInt64(byte())
    case 9: return 0xFFFF
    case 10: return 0x1_0000
    case 11: return 0x7F
    case 12: return 0x80
    case 13: return 0xFFFF_FFF0 + UInt64(below(16))
    case 14: return 1 << UInt64(below(64))
    case 15: return 1 << UInt64(below(64)) &- 1
    case 16...19: return 0x1000 + UInt64(byte()) * 16
    default: return UInt64(byte())
    }
  }
}

struct DWARFGenerator {
  /// The code that addresses are asked for: 0x1000 ..< 0x3000.
  static let codeStart: UInt64 = 0x1000

  private var choices: Choices
  private var info = HandmadeBytes()
  private var types = HandmadeBytes()
  private var abbreviations = HandmadeBytes()
  private var texts = HandmadeBytes([0])
  private var lineTexts = HandmadeBytes()
  private var lines = HandmadeBytes()
  private var ranges = HandmadeBytes()
  private var locations = HandmadeBytes()
  private var addresses = HandmadeBytes()
  private var textOffsets = HandmadeBytes()
  private var textPlaces: [Int] = [0]

  // The unit that is being written.
  private var version = 4
  private var offsetSize = 4
  private var unitStart = 0
  private var codes: [[UInt64]: UInt64] = [:]
  private var table = HandmadeBytes()
  /// Offsets in .debug_info of all entries.
  private var entries: [Int] = []
  private var entriesLeft = 0
  /// Where references stand: bytes of one, whether it counts from the unit's start, and that start.
  private var references: [(offset: Int, size: Int, unit: Int)] = []

  private enum Form {
    static let addr: UInt64 = 0x01
    static let block2: UInt64 = 0x03, block4: UInt64 = 0x04, block1: UInt64 = 0x0A, block: UInt64 = 0x09
    static let data2: UInt64 = 0x05, data4: UInt64 = 0x06, data8: UInt64 = 0x07, data1: UInt64 = 0x0B
    static let string: UInt64 = 0x08, strp: UInt64 = 0x0E, strx: UInt64 = 0x1A, strx1: UInt64 = 0x25
    static let sdata: UInt64 = 0x0D, udata: UInt64 = 0x0F, flag: UInt64 = 0x0C
    static let refAddr: UInt64 = 0x10, ref4: UInt64 = 0x13, ref8: UInt64 = 0x14, refUdata: UInt64 = 0x15
    static let indirect: UInt64 = 0x16, secOffset: UInt64 = 0x17, exprloc: UInt64 = 0x18
    static let flagPresent: UInt64 = 0x19, addrx: UInt64 = 0x1B, data16: UInt64 = 0x1E, lineStrp: UInt64 = 0x1F
    static let refSig8: UInt64 = 0x20, implicitConst: UInt64 = 0x21, loclistx: UInt64 = 0x22, rnglistx: UInt64 = 0x23
  }

  init(_ bytes: ArraySlice<UInt8>) { choices = Choices(bytes) }

  /// The file that the choices stand for.
  mutating func file() -> [UInt8] {
    for _ in 0..<choices.below(24) {
      textPlaces.append(texts.count)
      texts.put(text: name())
    }
    addresses.put([UInt8](repeating: 0, count: 8))
    textOffsets.put([UInt8](repeating: 0, count: 8))
    for _ in 0..<8 {
      addresses.put(choices.number(), 8)
      textOffsets.put(choices.rarely(4) ? choices.number() : UInt64(choices.one(of: textPlaces)), 4)
    }
    for _ in 0..<1 + choices.below(4) { unit() }
    resolve()
    damage()
    return elf()
  }

  private mutating func name() -> String {
    switch choices.below(12) {
    case 0: return ""
    case 1: return "_ZN" + String(repeating: "1a", count: choices.below(200)) + "E1fIiEEvv"
    case 2: return "_Z1fIiE" + (0..<choices.below(40)).map { _ in "1BIS_S_E" }.joined() + "Ev"
    case 3: return "$s1m1v" + String(repeating: "SDy", count: choices.below(40)) + "S2iGACGADGvp"
    case 4: return "_RNvC3foo" + String(repeating: "N", count: choices.below(250))
    case 5: return String(repeating: "x", count: choices.below(256))
    case 6: return "<lambda(int)>"
    case 7: return "operator()"
    default: return String(UnicodeScalar(UInt8(ascii: "a") + UInt8(choices.below(26)))) + "\(choices.byte())"
    }
  }

  // MARK: units

  private mutating func unit() {
    version = choices.one(of: [4, 5, 4, 5, 3, 2])
    offsetSize = choices.rarely(8) ? 8 : 4
    unitStart = info.count
    codes = [:]
    table = HandmadeBytes()
    entriesLeft = 40 + choices.below(200)
    let abbreviationsAt = choices.rarely(12) ? Int(choices.byte()) % max(abbreviations.count, 1) : abbreviations.count
    if offsetSize == 8 { info.put(0xFFFF_FFFF, 4) }
    let lengthAt = info.count
    info.put(0, offsetSize)
    info.put(UInt64(version), 2)
    let type = choices.one(of: [UInt64(1), 1, 1, 1, 3, 2, 4, 5])
    if version == 5 {
      info.put(type, 1)
      info.put(8, 1)
      info.put(UInt64(abbreviationsAt), offsetSize)
      if type == 4 || type == 5 || type == 2 || type == 6 { info.put(UInt64(choices.below(4)), 8) }
      if type == 2 || type == 6 { info.put(UInt64(24 + choices.below(30)), offsetSize) }
    } else {
      info.put(UInt64(abbreviationsAt), offsetSize)
      info.put(8, 1)
    }
    entry(tag: version == 5 && type == 3 ? 0x3C : 0x11, depth: 0)
    info.overwrite(UInt64(info.count - lengthAt - offsetSize), offsetSize, at: lengthAt)
    if choices.rarely(24) { info.overwrite(choices.number(), offsetSize, at: lengthAt) }
    if !choices.rarely(20) { table.put(0, 1) }
    abbreviations.put(table.bytes)
  }

  private static let typeTags: [UInt64] = [
    0x01, 0x02, 0x04, 0x0F, 0x10, 0x13, 0x15, 0x16, 0x17, 0x21, 0x24, 0x26, 0x33, 0x35, 0x3B, 0x42,
  ]
  private static let innerTags: [UInt64] = [
    0x2E, 0x34, 0x05, 0x0B, 0x1D, 0x39, 0x0D, 0x1C, 0x21, 0x28, 0x19, 0x18, 0x32, 0x48, 0x1A, 0x3A,
  ]

  /// Writes an entry and those below it.
  private mutating func entry(tag: UInt64, depth: Int) {
    entriesLeft -= 1
    entries.append(info.count)
    var shape: [UInt64] = []
    var body = HandmadeBytes()
    var placed: [(offset: Int, size: Int, unit: Int)] = []
    // A chain as deep as it may be, or a bush.
    let children =
      depth == 0 || (depth < 600 && entriesLeft > 0 && (depth > 8 ? !choices.rarely(3) : choices.below(3) > 0))
    for attribute in attributes(of: tag) {
      value(attribute, &shape, &body, &placed)
    }
    if choices.rarely(40) {
      // Attributes that take no bytes.
      for _ in 0..<choices.below(80) { shape += [0x3F, Form.flagPresent] }
    }
    let key = [tag, children ? 1 : 0] + shape
    let code: UInt64
    if let known = codes[key] {
      code = known
    } else {
      code = choices.rarely(60) ? choices.number() : UInt64(codes.count + 1)
      codes[key] = code
      table.put(unsigned: code)
      table.put(unsigned: tag)
      table.put(children ? 1 : 0, 1)
      var index = 0
      while index < shape.count {
        table.put(unsigned: shape[index])
        table.put(unsigned: shape[index + 1])
        if shape[index + 1] == Form.implicitConst {
          table.put(signed: Int64(bitPattern: shape[index + 2]))
          index += 1
        }
        index += 2
      }
      table.put(0, 2)
    }
    info.put(unsigned: code)
    let start = info.count
    references += placed.map { ($0.offset + start, $0.size, $0.unit) }
    info.put(body.bytes)
    guard children else { return }
    let chain = choices.rarely(16)
    var count = chain ? 1 : 1 + choices.below(depth == 0 ? 16 : 5)
    while count > 0, entriesLeft > 0 {
      count -= 1
      let isType = choices.below(3) == 0
      entry(
        tag: chain ? tag == 0x11 ? 0x2E : tag : choices.one(of: isType ? Self.typeTags : Self.innerTags),
        depth: depth + 1)
    }
    if !choices.rarely(100) { info.put(0, 1) }
  }

  /// The attributes of an entry, by their numbers.
  private mutating func attributes(of tag: UInt64) -> [UInt64] {
    var found: [UInt64]
    switch tag {
    case 0x11, 0x3C: found = [0x03, 0x1B, 0x11, 0x12, 0x10, 0x13, 0x55]  // compile, partial unit
    case 0x2E: found = [0x03, 0x11, 0x12, 0x40, 0x6E, 0x47, 0x3A, 0x3B]  // subprogram
    case 0x1D: found = [0x31, 0x11, 0x12, 0x58, 0x59, 0x57]  // inlined_subroutine
    case 0x0B: found = [0x11, 0x12]  // lexical_block
    case 0x34, 0x05: found = [0x03, 0x49, 0x02, 0x3A, 0x3B]  // variable, formal_parameter
    case 0x0D, 0x1C: found = [0x03, 0x49, 0x38, 0x0D, 0x6B]  // member, inheritance
    case 0x21: found = [0x2F, 0x22, 0x37, 0x49]  // subrange_type
    case 0x01: found = [0x49, 0x2E, 0x09]  // array_type
    case 0x24: found = [0x0B, 0x3E, 0x03]  // base_type
    case 0x13, 0x17, 0x02, 0x04: found = [0x03, 0x0B, 0x69, 0x3C]  // structure, union, class, enumeration type
    default: found = [0x03, 0x49]
    }
    found = found.filter { _ in choices.below(4) != 0 }
    // Any other: abstract_origin, specification, sibling, ranges, import, data_location …
    while choices.rarely(5) {
      found.append(choices.one(of: [0x31, 0x47, 0x01, 0x55, 0x18, 0x50, 0x34, 0x0C, 0x6B, 0x88, 0x20, 0x69, 0x49]))
    }
    return found
  }

  private mutating func value(
    _ attribute: UInt64, _ shape: inout [UInt64], _ body: inout HandmadeBytes,
    _ placed: inout [(offset: Int, size: Int, unit: Int)]
  ) {
    var form = usualForm(of: attribute)
    if choices.rarely(24) {
      form = choices.one(of: [
        Form.addr, Form.block1, Form.block, Form.block4, Form.data1, Form.data8, Form.string, Form.strp, Form.strx,
        Form.sdata, Form.udata, Form.refAddr, Form.ref4, Form.refUdata, Form.indirect, Form.secOffset, Form.exprloc,
        Form.flagPresent, Form.addrx, Form.data16, Form.lineStrp, Form.refSig8, Form.implicitConst, Form.loclistx,
        Form.rnglistx, 0x1F01, 0x1F20, 0x7F,
      ])
    }
    shape += [attribute, form]
    switch form {
    case Form.addr: body.put(address(), 8)
    case Form.data1, Form.flag, Form.strx1: body.put(UInt64(choices.byte()), 1)
    case Form.data2: body.put(choices.number(), 2)
    case Form.data4: body.put(choices.number(), 4)
    case Form.data8: body.put(choices.number(), 8)
    case Form.data16:
      body.put(choices.number(), 8)
      body.put(choices.number(), 8)
    case Form.string: body.put(text: name())
    case Form.strp:
      body.put(choices.rarely(12) ? choices.number() : UInt64(choices.one(of: textPlaces)), offsetSize)
    case Form.lineStrp: body.put(choices.rarely(4) ? choices.number() : 0, offsetSize)
    case Form.strx, Form.addrx, Form.loclistx, Form.rnglistx:
      body.put(unsigned: choices.rarely(6) ? choices.number() : UInt64(choices.below(8)))
    case Form.udata: body.put(unsigned: choices.number())
    case Form.sdata: body.put(signed: Int64(bitPattern: choices.number()))
    case Form.implicitConst: shape.append(choices.number())
    case Form.flagPresent: break
    case Form.secOffset: body.put(sectionOffset(of: attribute), offsetSize)
    case Form.exprloc, Form.block:
      let bytes = expression()
      body.put(unsigned: choices.rarely(24) ? choices.number() : UInt64(bytes.count))
      body.put(bytes)
    case Form.block1:
      let bytes = expression()
      body.put(choices.rarely(24) ? choices.number() : UInt64(bytes.count), 1)
      body.put(bytes)
    case Form.block4:
      let bytes = expression()
      body.put(choices.rarely(24) ? choices.number() : UInt64(bytes.count), 4)
      body.put(bytes)
    case Form.indirect:
      // A chain of forms that name the next.
      for _ in 0..<choices.below(3) * choices.below(256) { body.put(Form.indirect, 1) }
      body.put(Form.data1, 1)
      body.put(0, 1)
    case Form.ref4: reference(4, fromUnit: true, &body, &placed)
    case Form.ref8: reference(8, fromUnit: true, &body, &placed)
    case Form.refUdata: body.put(unsigned: choices.rarely(3) ? choices.number() : UInt64(choices.byte()))
    case Form.refAddr: reference(version == 2 ? 8 : offsetSize, fromUnit: false, &body, &placed)
    case Form.refSig8: body.put(UInt64(choices.below(4)), 8)
    default: body.put(choices.number(), choices.below(9))
    }
  }

  private mutating func usualForm(of attribute: UInt64) -> UInt64 {
    switch attribute {
    case 0x03, 0x6E, 0x1B:
      return choices.one(
        of: version == 5 ? [Form.strp, Form.string, Form.strx1, Form.lineStrp] : [Form.strp, Form.string])
    case 0x11: return version == 5 && choices.rarely(4) ? Form.addrx : Form.addr
    case 0x12: return choices.one(of: [Form.data8, Form.addr, Form.udata, Form.data4])
    case 0x49, 0x47, 0x31, 0x69, 0x18: return choices.one(of: [Form.ref4, Form.refAddr, Form.ref4, Form.refUdata])
    case 0x01: return choices.one(of: [Form.ref4, Form.refUdata])
    case 0x10: return version < 4 ? Form.data4 : Form.secOffset
    case 0x55: return version < 4 ? Form.data4 : version == 5 && choices.rarely(3) ? Form.rnglistx : Form.secOffset
    case 0x02, 0x40: return version < 4 ? Form.block1 : choices.rarely(4) ? Form.secOffset : Form.exprloc
    case 0x50: return Form.exprloc
    case 0x3C, 0x34: return Form.flagPresent
    case 0x38: return choices.one(of: [Form.data1, Form.udata, Form.data8, version < 4 ? Form.block1 : Form.exprloc])
    default: return choices.one(of: [Form.data1, Form.udata, Form.data8, Form.sdata, Form.data4])
    }
  }

  private mutating func address() -> UInt64 {
    choices.rarely(6) ? choices.number() : Self.codeStart + UInt64(choices.byte()) * 16
  }

  /// A place for a reference, which is written when all entries are known.
  private mutating func reference(
    _ size: Int, fromUnit: Bool, _ body: inout HandmadeBytes, _ placed: inout [(offset: Int, size: Int, unit: Int)]
  ) {
    placed.append((body.count, size, fromUnit ? unitStart : 0))
    body.put(0, size)
  }

  private mutating func resolve() {
    for reference in references {
      var target = UInt64(bitPattern: Int64(choices.one(of: entries) - reference.unit))
      if entries.count > 256 {
        target = UInt64(
          bitPattern: Int64(entries[(choices.below(256) << 4 | choices.below(16)) % entries.count] - reference.unit))
      }
      if choices.rarely(30) { target = choices.number() }
      info.overwrite(target, reference.size, at: reference.offset)
    }
  }

  private mutating func expression() -> [UInt8] {
    var bytes = HandmadeBytes()
    switch choices.below(10) {
    case 0...3:
      bytes.put(0x03, 1)
      bytes.put(address(), 8)
    case 4:
      bytes.put(0x91, 1)  // fbreg
      bytes.put(signed: Int64(bitPattern: choices.number()))
    case 5: bytes.put(0x9C, 1)  // call_frame_cfa
    case 6:
      bytes.put(0x0E, 1)  // const8u, form_tls_address
      bytes.put(choices.number(), 8)
      bytes.put(choices.one(of: [0x9B, 0xE0]), 1)
    case 7:
      bytes.put(0xA1, 1)  // addrx
      bytes.put(unsigned: choices.number())
    case 8:
      bytes.put(0x23, 1)  // plus_uconst
      bytes.put(unsigned: choices.number())
    default:
      for _ in 0..<choices.below(40) { bytes.put(UInt64(choices.byte()), 1) }
    }
    return bytes.bytes
  }

  // MARK: what units refer to

  private mutating func sectionOffset(of attribute: UInt64) -> UInt64 {
    if choices.rarely(16) { return choices.number() }
    switch attribute {
    case 0x10: return lineTable()
    case 0x55: return rangeList()
    case 0x02, 0x40: return locationList()
    default: return UInt64(choices.byte())
    }
  }

  private mutating func rangeList() -> UInt64 {
    let start = ranges.count
    if version == 5 {
      // The head of the list's part of .debug_rnglists is a lie that libdw doesn't look at.
      for _ in 0..<choices.below(12) {
        switch choices.below(6) {
        case 0:
          ranges.put(0x04, 1)  // offset_pair
          ranges.put(unsigned: choices.number())
          ranges.put(unsigned: choices.number())
        case 1:
          ranges.put(0x05, 1)  // base_address
          ranges.put(address(), 8)
        case 2:
          ranges.put(0x06, 1)  // start_end
          ranges.put(address(), 8)
          ranges.put(address(), 8)
        case 3:
          ranges.put(0x02, 1)  // startx_endx
          ranges.put(unsigned: choices.number())
          ranges.put(unsigned: choices.number())
        default:
          ranges.put(0x07, 1)  // start_length
          ranges.put(address(), 8)
          ranges.put(unsigned: choices.number())
        }
      }
      if !choices.rarely(8) { ranges.put(0, 1) }
    } else {
      for _ in 0..<choices.below(12) {
        ranges.put(choices.rarely(5) ? .max : address(), 8)
        ranges.put(address(), 8)
      }
      if !choices.rarely(8) { ranges.put(0, 16) }
    }
    return UInt64(start)
  }

  private mutating func locationList() -> UInt64 {
    let start = locations.count
    for _ in 0..<choices.below(6) {
      let bytes = expression()
      if version == 5 {
        locations.put(choices.one(of: [0x08, 0x04, 0x07, 0x05]), 1)
        locations.put(address(), 8)
        locations.put(unsigned: choices.number())
        locations.put(unsigned: UInt64(bytes.count))
      } else {
        locations.put(address(), 8)
        locations.put(address(), 8)
        locations.put(UInt64(bytes.count), 2)
      }
      locations.put(bytes)
    }
    locations.put(0, version == 5 ? 1 : 16)
    return UInt64(start)
  }

  private mutating func lineTable() -> UInt64 {
    let start = lines.count
    let lineVersion = choices.rarely(6) ? 2 + choices.below(4) : version
    if offsetSize == 8 { lines.put(0xFFFF_FFFF, 4) }
    let lengthAt = lines.count
    lines.put(0, offsetSize)
    lines.put(UInt64(lineVersion), 2)
    if lineVersion == 5 { lines.put(0x0008, 2) }
    let headAt = lines.count
    lines.put(0, offsetSize)
    lines.put(1, 1)
    if lineVersion >= 4 { lines.put(choices.rarely(12) ? 0 : 1, 1) }
    let base = choices.rarely(12) ? choices.byte() : 13
    lines.put([1, UInt8(bitPattern: -5), choices.rarely(12) ? 0 : 14, base])
    let lengths: [UInt8] = [0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1]
    for index in 1..<max(Int(base), 1) {
      lines.put(UInt64(choices.rarely(60) ? choices.byte() : index <= 12 ? lengths[index - 1] : 0), 1)
    }
    if lineVersion == 5 { newFiles() } else { oldFiles() }
    lines.overwrite(UInt64(lines.count - headAt - offsetSize), offsetSize, at: headAt)
    program(base)
    lines.overwrite(UInt64(lines.count - lengthAt - offsetSize), offsetSize, at: lengthAt)
    if choices.rarely(24) { lines.overwrite(choices.number(), offsetSize, at: choices.rarely(2) ? headAt : lengthAt) }
    return UInt64(start)
  }

  private mutating func oldFiles() {
    for _ in 0..<choices.below(4) { lines.put(text: "/d" + name()) }
    lines.put(0, 1)
    for _ in 0..<choices.below(6) {
      lines.put(text: "f" + name())
      lines.put(unsigned: choices.rarely(8) ? choices.number() : UInt64(choices.below(4)))
      lines.put(0, 2)
    }
    lines.put(0, 1)
  }

  private mutating func newFiles() {
    if lineTexts.count == 0 { lineTexts.put(text: "/dir/") }
    for isFile in [false, true] {
      let path = choices.rarely(10) ? choices.one(of: [Form.strp, Form.block, Form.indirect, Form.udata]) : Form.string
      lines.put(isFile ? 2 : 1, 1)
      lines.put(unsigned: 1)
      lines.put(unsigned: path)
      if isFile {
        lines.put(unsigned: 2)
        lines.put(unsigned: Form.udata)
      }
      let count = choices.below(6)
      lines.put(unsigned: choices.rarely(12) ? choices.number() : UInt64(count))
      for _ in 0..<count {
        switch path {
        case Form.string: lines.put(text: name())
        case Form.strp: lines.put(choices.number(), offsetSize)
        case Form.indirect:
          for _ in 0..<choices.below(256) { lines.put(Form.indirect, 1) }
          lines.put([0x08, 0])
        default: lines.put(unsigned: choices.number())
        }
        if isFile { lines.put(unsigned: choices.rarely(8) ? choices.number() : UInt64(choices.below(4))) }
      }
    }
  }

  private mutating func program(_ base: UInt8) {
    lines.put([0, 9, 2])
    lines.put(Self.codeStart, 8)
    for _ in 0..<choices.below(64) {
      switch choices.below(10) {
      case 0:
        lines.put([0, choices.rarely(4) ? choices.byte() : 1, 1])
        lines.put([0, 9, 2])
        lines.put(address(), 8)
      case 1:
        lines.put(2, 1)
        lines.put(unsigned: choices.number())
      case 2:
        lines.put(3, 1)
        lines.put(signed: Int64(bitPattern: choices.number()))
      case 3:
        lines.put(4, 1)
        lines.put(unsigned: choices.number())
      case 4:
        lines.put([0, choices.byte(), choices.one(of: [1, 2, 3, 4, 0x80, 0x90, 0x91])])
        lines.put(text: name())
        lines.put([0, 0, 0])
      case 5: lines.put(UInt64(choices.byte()), 1)
      default: lines.put(UInt64(base &+ choices.byte()), 1)
      }
    }
    lines.put([0, 1, 1])
  }

  // MARK: the file

  /// Bytes of extreme values at places of the sections.
  private mutating func damage() {
    guard choices.rarely(2) else { return }
    for _ in 0..<choices.below(6) {
      let value = UInt64(choices.one(of: [0, 0xFF, 0x7F, 0x80, choices.byte()]))
      let place = choices.below(256) << 8 | choices.below(256)
      func put(_ bytes: inout HandmadeBytes) {
        if bytes.count > 0 { bytes.overwrite(value, 1, at: place % bytes.count) }
      }
      switch choices.below(6) {
      case 0: put(&abbreviations)
      case 1: put(&lines)
      case 2: put(&ranges)
      case 3: put(&texts)
      default: put(&info)
      }
    }
  }

  private mutating func elf() -> [UInt8] {
    var file = HandmadeELF()
    file.span = 0x3000
    file.sections = [
      .init(".text", flags: 6, address: Self.codeStart, [0, 0, 0, 0], claimedSize: 0x1000),
      .init(".data", type: 8, flags: 3, address: 0x2000, claimedSize: 0x1000),
    ]
    var debug: [(String, HandmadeBytes)] = [
      (".debug_info", info), (".debug_abbrev", abbreviations), (".debug_str", texts), (".debug_line", lines),
    ]
    if lineTexts.count > 0 { debug.append((".debug_line_str", lineTexts)) }
    debug += [
      (".debug_ranges", ranges), (".debug_rnglists", ranges), (".debug_loc", locations),
      (".debug_loclists", locations), (".debug_addr", addresses), (".debug_str_offsets", textOffsets),
    ]
    for (name, bytes) in debug where bytes.count > 0 { file.sections.append(section(name, bytes.bytes)) }
    if choices.below(3) > 0 { symbols(&file) }
    if choices.rarely(4) { file.sections.append(note()) }
    if choices.rarely(6) {
      file.sections.append(.init(".gnu_debugdata", (0..<choices.below(64)).map { _ in choices.byte() }))
    }
    if choices.rarely(6) {
      file.sections.append(
        .init(".gnu_debuglink", Array("x".utf8) + (0..<choices.below(12)).map { _ in choices.byte() }))
    }
    if choices.rarely(8) {
      file.sections.append(
        .init(".gnu_debugaltlink", Array("alt".utf8) + [0] + (0..<choices.below(24)).map { _ in choices.byte() }))
    }
    if choices.rarely(8), !file.sections.isEmpty {
      let index = choices.below(file.sections.count)
      file.sections[index].claimedSize = choices.number()
    }
    if choices.rarely(12) {
      file.claimedSections = choices.one(of: [0, 1, 0xFFFF, UInt16(file.sections.count)])
      file.firstSectionSize = choices.number()
    }
    if choices.rarely(12) { file.noteSegments = [(choices.number(), choices.number())] }
    return file.build()
  }

  /// As it is, or packed: in zlib's form without compression, or with a head that lies.
  private mutating func section(_ name: String, _ bytes: [UInt8]) -> HandmadeELF.Section {
    guard choices.rarely(20) else { return .init(name, bytes) }
    let claimed = choices.rarely(3) ? choices.number() : UInt64(bytes.count)
    var packed = HandmadeBytes()
    if choices.rarely(2) {
      packed.put(Array("ZLIB".utf8))
      packed.put(claimed.byteSwapped, 8)
      packed.put(Self.stored(bytes))
      return .init(".z" + name.dropFirst(), packed.bytes)
    }
    packed.put(choices.one(of: [1, 1, 2, 7]), 4)
    packed.put(0, 4)
    packed.put(claimed, 8)
    packed.put(1, 8)
    packed.put(Self.stored(bytes))
    return .init(name, flags: 0x800, packed.bytes)
  }

  /// A zlib stream of one stored block (RFC 1950, 1951).
  private static func stored(_ bytes: [UInt8]) -> [UInt8] {
    let bytes = Array(bytes.prefix(0xFFFF))
    var (a, b): (UInt32, UInt32) = (1, 0)
    for byte in bytes {
      a = (a + UInt32(byte)) % 65521
      b = (b + a) % 65521
    }
    var stream = HandmadeBytes([0x78, 0x01, 0x01])
    stream.put(UInt64(bytes.count), 2)
    stream.put(~UInt64(bytes.count), 2)
    stream.put(bytes)
    stream.put(UInt64((b << 16 | a).byteSwapped), 4)
    return stream.bytes
  }

  private mutating func symbols(_ file: inout HandmadeELF) {
    var table = HandmadeBytes([UInt8](repeating: 0, count: 24))
    for _ in 0..<choices.below(16) {
      table.put(choices.rarely(8) ? choices.number() : UInt64(choices.one(of: textPlaces)), 4)
      table.put(choices.one(of: [0x12, 0x11, 0x02, 0x10, 0x06, 0x26, 0x0A]), 1)
      table.put(0, 1)
      table.put(choices.one(of: [1, 2, 0xFFF1, 0]), 2)
      table.put(address(), 8)
      table.put(choices.number(), 8)
    }
    file.sections.append(
      .init(
        ".symtab", type: choices.rarely(4) ? 11 : 2, table.bytes, link: UInt32(file.sections.count + 2), entrySize: 24))
    file.sections.append(.init(".strtab", type: 3, texts.bytes))
  }

  private mutating func note() -> HandmadeELF.Section {
    var note = HandmadeBytes()
    note.put(choices.rarely(4) ? choices.number() : 4, 4)
    let size = choices.below(40)
    note.put(choices.rarely(4) ? choices.number() : UInt64(size), 4)
    note.put(3, 4)
    note.put(text: "GNU")
    for _ in 0..<size { note.put(UInt64(choices.byte()), 1) }
    return .init(".note.gnu.build-id", type: 7, flags: 2, note.bytes)
  }
}
