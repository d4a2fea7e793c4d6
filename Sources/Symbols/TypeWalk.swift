// SPDX-License-Identifier: Apache-2.0
// From a byte of a variable to the member that holds it: "server.clients[3].len".
//
// The types come from a file that may be hostile: a type may contain itself, or be an array of 2^60 elements. Nothing
// here loops over elements; depth, and the number of entries that are looked at, are bounded, and what lies beyond a
// bound is left out of the path. libdw's own functions that follow types (dwarf_peel_type, dwarf_aggregate_size) are
// not used, as they follow a circle for ever.

import Bounds
import CLibdw

/// The part of a variable that holds a byte.
struct VariablePart {
  /// As the source would name it: `server.clients[3].len`.
  var path: String
  /// Of that part; nil if it isn't known.
  var type: String?
  /// Bytes from the part's start.
  var offset: UInt64
  /// Bytes of the part; nil if not known.
  var size: UInt64?
  /// The byte belongs to no member.
  var isPadding = false
  /// Other names of the same byte: further members of a union, further bit-fields.
  var alternatives: [String] = []
}

/// Follows types for one question, with bounds.
struct TypeWalk {
  /// Entries that may still be looked at.
  private var budget = 100_000
  private var meter = BudgetMeter(interval: 64)
  /// Whether the tag of a structure is a part of its type's name.
  private let hasTags: Bool

  private static let deepest = 64
  private static let longestPath = 512
  private static let longestName = 200
  private static let mostAlternatives = 8

  init(language: Int?) {
    hasTags = [DW_LANG_C, DW_LANG_C89, DW_LANG_C99, DW_LANG_C11].contains(language ?? -1)
  }

  // MARK: entries

  private static func type(of entry: Dwarf_Die) -> Dwarf_Die? { reference(DW_AT_type, of: entry) }

  private static func reference(_ name: Int, of entry: Dwarf_Die) -> Dwarf_Die? {
    var entry = entry
    var attribute = Dwarf_Attribute()
    var result = Dwarf_Die()
    guard dwarf_attr_integrate(&entry, UInt32(truncatingIfNeeded: name), &attribute) != nil,
      dwarf_formref_die(&attribute, &result) != nil
    else { return nil }
    return result
  }

  static func type(ofVariable entry: Dwarf_Die) -> Dwarf_Die? { type(of: entry) }

  private static func number(_ name: Int, of entry: Dwarf_Die) -> UInt64? {
    var entry = entry
    var attribute = Dwarf_Attribute()
    var value: Dwarf_Word = 0
    guard dwarf_attr(&entry, UInt32(truncatingIfNeeded: name), &attribute) != nil,
      dwarf_formudata(&attribute, &value) == 0
    else {
      return nil
    }
    return value
  }

  private static func flag(_ name: Int, of entry: Dwarf_Die) -> Bool {
    var entry = entry
    var attribute = Dwarf_Attribute()
    var value = false
    return dwarf_attr(&entry, UInt32(truncatingIfNeeded: name), &attribute) != nil
      && dwarf_formflag(&attribute, &value) == 0 && value
  }

  /// The type of which `type` stands for no more than the signature.
  private static func whole(_ type: Dwarf_Die) -> Dwarf_Die? {
    var entry = type
    guard dwarf_hasattr(&entry, UInt32(truncatingIfNeeded: DW_AT_signature)) != 0,
      dwarf_hasattr(&entry, UInt32(truncatingIfNeeded: DW_AT_byte_size)) == 0
    else {
      return nil
    }
    return reference(DW_AT_signature, of: type)
  }

  private static func name(of entry: Dwarf_Die) -> String? {
    var entry = entry
    if let name = dwarf_diename(&entry), name[0] != 0 { return short(demangled(cString: name)) }
    guard var whole = whole(entry), let name = dwarf_diename(&whole), name[0] != 0 else { return nil }
    return short(demangled(cString: name))
  }

  /// A name that is longer than any that is shown counts as that long.
  private static func short(_ name: String) -> String {
    name.utf8.count <= 4 &* longestPath ? name : "\(name.prefix(longestPath))…"  // bounded: a constant of this file
  }

  private static func tag(_ entry: Dwarf_Die) -> Int {
    var entry = entry
    return Int(truncatingIfNeeded: dwarf_tag(&entry))
  }

  private mutating func forEachChild(of entry: Dwarf_Die, _ body: (inout TypeWalk, Dwarf_Die) -> Bool) {
    var parent = entry
    var child = Dwarf_Die()
    guard dwarf_child(&parent, &child) == 0 else { return }
    while budget > 0, meter.goesOn() {
      budget &-= 1
      guard body(&self, child) else { return }
      var next = Dwarf_Die()
      guard dwarf_siblingof(&child, &next) == 0 else { return }
      child = next
    }
  }

  /// The type behind names and qualifiers; nil if there is none, as for void.
  private mutating func peeled(_ type: Dwarf_Die) -> Dwarf_Die? {
    var type = type
    for _ in 0..<Self.deepest {
      switch Self.tag(type) {
      case DW_TAG_typedef, DW_TAG_const_type, DW_TAG_volatile_type, DW_TAG_restrict_type, DW_TAG_atomic_type,
        DW_TAG_immutable_type, DW_TAG_packed_type, DW_TAG_shared_type:
        guard let next = Self.type(of: type) else { return nil }
        type = next
      default:
        // The type is described in a unit of its own. The entry here is a declaration, or, with gcc, nothing more.
        guard let whole = Self.whole(type) else { return type }
        type = whole
      }
    }
    return nil
  }

  // MARK: sizes

  /// Bytes; nil if the type does not say.
  mutating func size(of type: Dwarf_Die, depth: Int = 0) -> UInt64? {
    guard depth < Self.deepest, budget > 0, meter.goesOn(), let type = peeled(type) else { return nil }
    budget &-= 1
    if let size = Self.number(DW_AT_byte_size, of: type) { return size }
    switch Self.tag(type) {
    case DW_TAG_pointer_type, DW_TAG_reference_type, DW_TAG_rvalue_reference_type: return 8
    case DW_TAG_array_type:
      guard let element = Self.type(of: type), var size = size(of: element, depth: depth &+ 1) else { return nil }
      if let stride = Self.number(DW_AT_byte_stride, of: type) { size = stride }
      for dimension in dimensions(of: type) {
        guard let count = dimension.count else { return nil }
        guard let product = (Foreign(size) * count).value else { return nil }
        size = product
      }
      return size
    default: return nil
    }
  }

  private struct Dimension {
    var lower: Int64
    /// nil for one that is not known: a flexible array.
    var count: UInt64?
  }

  private mutating func dimensions(of array: Dwarf_Die) -> [Dimension] {
    var result: [Dimension] = []
    var unit = Dwarf_Die()
    var entry = array
    var standard: Dwarf_Sword = 0
    if dwarf_diecu(&entry, &unit, nil, nil) == nil || dwarf_default_lower_bound(dwarf_srclang(&unit), &standard) != 0 {
      standard = 0
    }
    forEachChild(of: array) { walk, child in
      let tag = Self.tag(child)
      guard tag == DW_TAG_subrange_type || tag == DW_TAG_enumeration_type else { return true }
      let lower =
        Self.number(DW_AT_lower_bound, of: child).map { Int64(bitPattern: $0) } ?? Int64(truncatingIfNeeded: standard)
      var count = Self.number(DW_AT_count, of: child)
      if count == nil, let upper = Self.number(DW_AT_upper_bound, of: child) {
        // An upper bound of -1 is how some compilers write an array of no elements.
        let elements = Foreign(Int64(bitPattern: upper)) - lower + 1
        count = elements.value(in: 0...Int64.max).map { UInt64(bitPattern: $0) }
      }
      result.append(Dimension(lower: lower, count: count))
      return result.count < Self.deepest
    }
    return result
  }

  // MARK: members

  private struct Member {
    var name: String?
    var type: Dwarf_Die
    var start: UInt64
    /// nil: up to the structure's end.
    var size: UInt64?
    /// Bits, if it is a bit-field.
    var bits: UInt64?
  }

  /// The part of a variable of `type`, called `path`, that holds the byte `offset` bytes from its start.
  mutating func part(of type: Dwarf_Die, at offset: UInt64, path: String, depth: Int = 0) -> VariablePart {
    var whole = VariablePart(path: path, type: nil, offset: offset)
    guard depth < Self.deepest, budget > 0, meter.goesOn(), path.utf8.count < Self.longestPath,
      let peeled = peeled(type)
    else {
      whole.type = name(of: type)
      return whole
    }
    budget &-= 1
    switch Self.tag(peeled) {
    case DW_TAG_structure_type, DW_TAG_class_type, DW_TAG_union_type, DW_TAG_interface_type:
      let members = members(of: peeled, at: offset)
      guard let first = members.first else {
        whole.type = name(of: type)
        whole.size = size(of: peeled)
        // A type whose members are not described has no padding.
        whole.isPadding = hasMembers(peeled) && offset < whole.size ?? 0
        return whole
      }
      var part = part(of: first, at: offset, path: path, depth: depth &+ 1)
      for member in members.dropFirst().prefix(Self.mostAlternatives)
      where part.alternatives.count < Self.mostAlternatives {
        part.alternatives.append(self.part(of: member, at: offset, path: path, depth: depth &+ 1).path)
      }
      return part
    case DW_TAG_array_type:
      if let element = element(of: peeled, at: offset, path: path) {
        return part(of: element.type, at: element.offset, path: element.path, depth: depth &+ 1)
      }
      fallthrough
    default:
      whole.type = name(of: type)
      whole.size = size(of: peeled)
      return whole
    }
  }

  private mutating func part(of member: Member, at offset: UInt64, path: String, depth: Int) -> VariablePart {
    let path = member.name.map { "\(path).\($0)" } ?? path
    if let bits = member.bits {
      var part = VariablePart(path: path, type: name(of: member.type).map { "\($0) : \(bits)" }, offset: 0)
      part.size = member.size
      part.offset = offset &- member.start
      return part
    }
    return part(of: member.type, at: offset &- member.start, path: path, depth: depth)
  }

  private mutating func hasMembers(_ structure: Dwarf_Die) -> Bool {
    var found = false
    forEachChild(of: structure) { _, child in
      found = [DW_TAG_member, DW_TAG_inheritance, DW_TAG_variant_part].contains(Self.tag(child))
      return !found
    }
    return found
  }

  /// The members that hold the byte at `offset`: several in a union.
  private mutating func members(of structure: Dwarf_Die, at offset: UInt64, depth: Int = 0) -> [Member] {
    var result: [Member] = []
    guard depth < Self.deepest else { return [] }
    forEachChild(of: structure) { walk, child in
      switch Self.tag(child) {
      case DW_TAG_member, DW_TAG_inheritance:
        if let member = walk.member(child), member.start <= offset,
          member.size.map({ offset &- member.start < $0 }) ?? true
        {
          result.append(member)
        }
      // An enumeration with values: its variants lie one over the other.
      case DW_TAG_variant_part, DW_TAG_variant:
        result.append(contentsOf: walk.members(of: child, at: offset, depth: depth &+ 1))
      default: break
      }
      return result.count <= Self.mostAlternatives
    }
    return result
  }

  /// nil for a static member, or one whose place must be computed.
  private mutating func member(_ entry: Dwarf_Die) -> Member? {
    guard !Self.flag(DW_AT_external, of: entry), !Self.flag(DW_AT_declaration, of: entry),
      let type = Self.type(of: entry)
    else { return nil }
    let size = size(of: type)
    // A base class is not named in an expression, and an anonymous structure has no name.
    var member = Member(
      name: Self.tag(entry) == DW_TAG_inheritance ? nil : Self.name(of: entry), type: type, start: 0, size: size)
    if let place = place(of: entry) { member.start = place } else { return nil }
    guard let bits = Self.number(DW_AT_bit_size, of: entry), bits > 0, bits <= 1 << 16 else { return member }
    var first = Self.number(DW_AT_data_bit_offset, of: entry)
    if first == nil, let below = Self.number(DW_AT_bit_offset, of: entry),
      let storage = Self.number(DW_AT_byte_size, of: entry) ?? size, storage <= 1 << 16
    {
      // DWARF 2: counted from the highest bit of the storage unit.
      first = (member.start &+ storage) &* 8 &- below &- bits
    }
    guard let first else { return nil }
    member.bits = bits
    member.start = first / 8
    member.size = (first &+ bits &+ 7) / 8 &- member.start
    return member
  }

  private func place(of member: Dwarf_Die) -> UInt64? {
    var member = member
    var attribute = Dwarf_Attribute()
    guard dwarf_attr(&member, UInt32(truncatingIfNeeded: DW_AT_data_member_location), &attribute) != nil else {
      return 0
    }
    var value: Dwarf_Word = 0
    if dwarf_formudata(&attribute, &value) == 0 { return value }
    var operations: UnsafeMutablePointer<Dwarf_Op>?
    var count = 0
    var block = Dwarf_Block()
    guard dwarf_formblock(&attribute, &block) == 0, block.length <= 16,
      dwarf_getlocation(&attribute, &operations, &count) == 0, count == 1, let operations,
      Int(truncatingIfNeeded: operations[0].atom) == DW_OP_plus_uconst
    else { return nil }
    return operations[0].number
  }

  /// The element of an array that holds the byte at `offset`; nil if the array does not say how large they are.
  private mutating func element(
    of array: Dwarf_Die, at offset: UInt64, path: String
  ) -> (type: Dwarf_Die, offset: UInt64, path: String)? {
    // By columns, as in Fortran: not worked out.
    if let order = Self.number(DW_AT_ordering, of: array), order == UInt64(truncatingIfNeeded: DW_ORD_col_major) {
      return nil
    }
    guard let type = Self.type(of: array) else { return nil }
    let stride = Self.number(DW_AT_byte_stride, of: array) ?? size(of: type)
    let dimensions = dimensions(of: array)
    guard let stride, stride > 0, !dimensions.isEmpty else { return nil }
    // bounded: `stride` is above 0, as is each count below
    var index = offset / stride
    let rest = offset % stride

    var subscripts: [String] = []
    for (position, dimension) in dimensions.enumerated().reversed() {
      var value = index
      // The first one may be open.
      if position > 0 {
        guard let count = dimension.count, count > 0 else { return nil }
        (index, value) = index.quotientAndRemainder(dividingBy: count)
      } else if let count = dimension.count, value >= count {
        return nil
      }
      subscripts.append("[\(Int64(bitPattern: value) &+ dimension.lower)]")
    }
    return (type, rest, "\(path)\(subscripts.reversed().joined())")
  }

  // MARK: names

  /// The type as its source would write it; nil if it has no name.
  mutating func name(of type: Dwarf_Die) -> String? {
    let (head, tail) = declarator(of: type, depth: 0)
    let name = "\(head)\(tail)"
    guard !name.isEmpty else { return nil }
    return name.count <= Self.longestName ? name : name.prefix(Self.longestName).dropLast() + "…"
  }

  /// The text before and behind a variable's name in a declaration.
  private mutating func declarator(of type: Dwarf_Die?, depth: Int) -> (head: String, tail: String) {
    let (head, tail) = whole(declaratorOf: type, depth: depth)
    return (Self.short(head), Self.short(tail))
  }

  private mutating func whole(declaratorOf type: Dwarf_Die?, depth: Int) -> (head: String, tail: String) {
    guard let type else { return ("void", "") }
    guard depth < 16, budget > 0, meter.goesOn() else { return ("…", "") }
    budget &-= 1
    let tag = Self.tag(type)
    func target() -> Dwarf_Die? { Self.type(of: type) }
    switch tag {
    case DW_TAG_pointer_type, DW_TAG_reference_type, DW_TAG_rvalue_reference_type:
      // Rust and others give pointers names.
      if let name = Self.name(of: type) { return (name, "") }
      let mark = tag == DW_TAG_pointer_type ? "*" : tag == DW_TAG_reference_type ? "&" : "&&"
      let pointed = target()
      let (head, tail) = declarator(of: pointed, depth: depth &+ 1)
      if !tail.isEmpty { return ("\(head) (\(mark)", ")\(tail)") }
      return (head.hasSuffix("*") ? "\(head)\(mark)" : "\(head) \(mark)", tail)
    case DW_TAG_const_type, DW_TAG_volatile_type, DW_TAG_restrict_type, DW_TAG_atomic_type:
      let word =
        tag == DW_TAG_const_type
        ? "const" : tag == DW_TAG_volatile_type ? "volatile" : tag == DW_TAG_restrict_type ? "restrict" : "_Atomic"
      let (head, tail) = declarator(of: target(), depth: depth &+ 1)
      return (head.hasSuffix("*") ? "\(head) \(word)" : "\(word) \(head)", tail)
    case DW_TAG_array_type:
      let (head, tail) = declarator(of: target(), depth: depth &+ 1)
      let bounds = dimensions(of: type).prefix(Self.mostAlternatives).map { "[\($0.count.map { "\($0)" } ?? "")]" }
        .joined()
      return (head.hasSuffix("]") || tail.isEmpty ? "\(head) " : head, "\(bounds)\(tail)")
    case DW_TAG_subroutine_type:
      let (head, tail) = declarator(of: target(), depth: depth &+ 1)
      var parameters: [String] = []
      forEachChild(of: type) { walk, child in
        if Self.tag(child) == DW_TAG_formal_parameter {
          let (head, tail) = walk.declarator(of: Self.type(of: child), depth: depth &+ 1)
          parameters.append("\(head)\(tail)")
        } else if Self.tag(child) == DW_TAG_unspecified_parameters {
          parameters.append("...")
        }
        return parameters.count < 16
      }
      return (head, "(\(parameters.joined(separator: ", ")))\(tail)")
    case DW_TAG_structure_type, DW_TAG_class_type, DW_TAG_union_type, DW_TAG_enumeration_type:
      let word =
        tag == DW_TAG_union_type
        ? "union" : tag == DW_TAG_enumeration_type ? "enum" : tag == DW_TAG_class_type ? "class" : "struct"
      guard let name = Self.name(of: type) else { return ("\(word) {…}", "") }
      return (hasTags ? "\(word) \(name)" : name, "")
    default:
      return (Self.name(of: type) ?? "", "")
    }
  }
}
