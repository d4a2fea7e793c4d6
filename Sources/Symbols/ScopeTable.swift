// SPDX-License-Identifier: Apache-2.0
// The scopes in which a function is declared: `space::Class::f`, `run::{lambda(int)}::operator()`.
//
// An entry of DWARF doesn't know its parent, so a unit is walked once when a name in it is first wanted: the parents of
// its functions, and of entries that hold functions, are kept. An inlined or out-of-line instance of a function refers
// to the function's declaration, whose scopes count; the declaration may be in another unit. Depth, entries and lengths
// are bounded, as the file may be hostile; what is left out is said (`isCut`).

import Bounds
import CLibdw

struct ScopeTable {
  private static let deepest = 64
  private static let longestName = 4096
  /// Parents that are kept, of all units.
  private static let mostParents = 4 << 20

  /// By the unit: from a function or holder to its parent, both by their addresses; those at the unit's top are left
  /// out.
  private var parents: [OpaquePointer: [UInt: UInt]] = [:]
  /// Bytes of memory, about.
  private(set) var cost = 0
  /// Whether some functions have no scopes because there were too many.
  private(set) var isCut = false
  private var left = ScopeTable.mostParents

  /// The name of the function at `entry` with all that it is declared in; nil if it has none. At most `limit` entries
  /// of a unit are looked at.
  mutating func name(of entry: Dwarf_Die, limit: Int) -> String? {
    var entry = Self.declaration(of: entry)
    guard let own = Self.ownName(&entry) else { return nil }
    var parts = [own]
    var length = own.utf8.count
    while parts.count < Self.deepest, length < Self.longestName {
      guard let parent = parent(of: entry, limit: limit) else { break }
      // A class or function that is defined outside of what it is declared in.
      entry = Self.declaration(of: parent)
      // gcc leaves the type of many a lambda without a name, clang that of each.
      let isLambda = parts.count == 1 && own == "operator()" && Self.isClass(&entry) && Self.ownName(&entry) == nil
      let part = isLambda ? "{lambda}" : Self.partName(&entry)
      length &+= part.utf8.count &+ 2
      parts.append(part)
    }
    return parts.reversed().joined(separator: "::")
  }

  /// The function of which an entry is an instance, or the declaration of which it is the definition outside of its
  /// class.
  private static func declaration(of entry: Dwarf_Die) -> Dwarf_Die {
    var entry = entry
    for _ in 0..<8 {
      var attribute = Dwarf_Attribute()
      var next = Dwarf_Die()
      guard
        dwarf_attr(&entry, UInt32(truncatingIfNeeded: DW_AT_abstract_origin), &attribute) != nil
          || dwarf_attr(&entry, UInt32(truncatingIfNeeded: DW_AT_specification), &attribute) != nil,
        dwarf_formref_die(&attribute, &next) != nil
      else { break }
      entry = next
    }
    return entry
  }

  private static func ownName(_ entry: inout Dwarf_Die) -> String? {
    var attribute = Dwarf_Attribute()
    guard dwarf_attr_integrate(&entry, UInt32(truncatingIfNeeded: DW_AT_name), &attribute) != nil,
      let name = dwarf_formstring(&attribute), name[0] != 0
    else { return nil }
    return String(bounded: name)
  }

  private static func isClass(_ entry: inout Dwarf_Die) -> Bool {
    let tag = Int(truncatingIfNeeded: dwarf_tag(&entry))
    return tag == DW_TAG_structure_type || tag == DW_TAG_class_type
  }

  private static func partName(_ entry: inout Dwarf_Die) -> String {
    let tag = Int(truncatingIfNeeded: dwarf_tag(&entry))
    guard let name = ownName(&entry) else {
      switch tag {
      case DW_TAG_namespace: return "(anonymous namespace)"
      default: return "{unnamed type}"
      }
    }
    // As gcc writes the type of a lambda, and as demangled names do.
    if name.hasPrefix("<lambda"), name.hasSuffix(">") { return "{\(name.dropFirst().dropLast())}" }
    return name
  }

  private mutating func parent(of entry: Dwarf_Die, limit: Int) -> Dwarf_Die? {
    guard let unit = entry.cu else { return nil }
    if parents[unit] == nil {
      let found = Self.parents(in: unit, limit: limit, most: left)
      guard !Budget.hasEnded else { return nil }
      left &-= found.count
      if left <= 0 { isCut = true }
      cost &+= found.count &* (4 &* MemoryLayout<UInt>.size)
      parents[unit] = found
    }
    guard let address = parents[unit]?[UInt(bitPattern: entry.addr)] else { return nil }
    return Dwarf_Die(addr: UnsafeMutableRawPointer(bitPattern: address), cu: unit, abbrev: nil, padding__: 0)
  }

  private static func parents(in unit: OpaquePointer, limit: Int, most: Int) -> [UInt: UInt] {
    var result: [UInt: UInt] = [:]
    var entry = Dwarf_Die()
    var next = Dwarf_Die()
    // The fields of a unit's head are of no use here.
    guard dwarf_cu_die(unit, &entry, nil, nil, nil, nil, nil, nil) != nil else { return result }
    var open: [Dwarf_Die] = []
    /// For each level that is open, what holds its functions: nil for the unit itself.
    var holders: [(address: UInt, isFunction: Bool)?] = []
    var remaining = limit
    var meter = BudgetMeter(interval: 256)
    // A table that is full to a half, and the one from which it grew.
    var memory = MemoryMeter(bytes: 6 &* MemoryLayout<UInt>.size)
    while remaining > 0, result.count < most, meter.goesOn() {
      remaining &-= 1
      let tag = Int(truncatingIfNeeded: dwarf_tag(&entry))
      let isHolder = holds(tag)
      // A function right inside of another one is mostly declared there only, as C allows it; its place says nothing.
      if let holder = holders.last, let holder, isHolder || (tag == DW_TAG_subprogram && !holder.isFunction) {
        guard memory.goesOn() else { return result }
        result[UInt(bitPattern: entry.addr)] = holder.address
      }
      let isWalked = isHolder || tag == DW_TAG_subprogram || isTransparent(tag)
      if open.count < deepest, isWalked, dwarf_child(&entry, &next) == 0 {
        let isNamed = isHolder || tag == DW_TAG_subprogram
        holders.append(
          isNamed ? (UInt(bitPattern: entry.addr), tag == DW_TAG_subprogram) : holders.last ?? nil)
        open.append(entry)
        entry = next
        continue
      }
      while dwarf_siblingof(&entry, &next) != 0 {
        guard open.count > 1, meter.goesOn() else { return result }
        entry = open.removeLast()
        holders.removeLast()
      }
      if open.isEmpty { return result }
      entry = next
    }
    return result
  }

  private static func holds(_ tag: Int) -> Bool {
    switch tag {
    case DW_TAG_namespace, DW_TAG_structure_type, DW_TAG_class_type, DW_TAG_union_type, DW_TAG_interface_type,
      DW_TAG_enumeration_type, DW_TAG_module:
      true
    default: false
    }
  }

  /// Entries that may hold functions without being a part of their names.
  private static func isTransparent(_ tag: Int) -> Bool {
    switch tag {
    case DW_TAG_compile_unit, DW_TAG_partial_unit, DW_TAG_type_unit, DW_TAG_skeleton_unit, DW_TAG_lexical_block,
      DW_TAG_inlined_subroutine, DW_TAG_try_block, DW_TAG_catch_block:
      true
    default: false
    }
  }
}
