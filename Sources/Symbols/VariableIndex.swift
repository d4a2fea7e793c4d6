// SPDX-License-Identifier: Apache-2.0
// The variables of a module that have an address of their own: which one holds a byte.
//
// Two steps, each made when it is first needed: those outside of functions, which takes a walk over the units'
// outermost entries; then the static ones inside functions, for which all entries are read. Thread-local ones are kept
// apart: their places are offsets in the module's thread-local storage.
//
// The file may be hostile: entries, and variables that are kept, are bounded, and the loops ask the question's budget.
// libdw keeps each location that it takes apart, which a hostile file has one for each ten bytes: the usual ones are
// read here.

import Bounds
import CLibdw

/// A variable's entry, and in what it is declared.
struct VariableEntry {
  var entry: Dwarf_Die
  /// With `::` at its end if there is any: `f::`, `space::Class::`.
  var scope: String
  /// Index of its unit.
  var unit: Int
}

struct VariableIndex {
  private(set) var ordinary: IntervalIndex<VariableEntry>
  private(set) var threadLocal: IntervalIndex<VariableEntry>
  /// Whether those inside functions are there, too.
  let isWhole: Bool
  /// Whether there were more variables or entries than are kept.
  private(set) var isCut = false
  var cost: Int { ordinary.cost &+ threadLocal.cost }

  private static let deepest = 256
  /// Variables that are kept, and bytes of all scopes of theirs: the largest programs have some million.
  private static let (mostVariables, scopeLimit) = (2 << 20, 128 << 20)
  /// Bytes of a location that is taken apart: one with an address has up to 20.
  private static let longestLocation = 64

  /// Of all `units`; at most `limit` entries are looked at.
  init(units: [Dwarf_Die], insideFunctions: Bool, limit: Int) {
    var ordinary: [IntervalIndex<VariableEntry>.Interval] = []
    var threadLocal: [IntervalIndex<VariableEntry>.Interval] = []
    var remaining = limit
    var scopeBytes = 0
    var memory = MemoryMeter(bytes: 3 &* MemoryLayout<IntervalIndex<VariableEntry>.Interval>.stride)
    for (index, unit) in units.enumerated() where remaining > 0 {
      Self.visit(unit, insideFunctions, &remaining) { entry, scope in
        guard let place = Self.place(of: entry()) else { return true }
        guard memory.goesOn() else { return false }
        let entry = entry()
        var walk = TypeWalk(language: nil)
        let size = TypeWalk.type(ofVariable: entry).flatMap { walk.size(of: $0) } ?? 1
        guard let end = (Foreign(place.address) + max(size, 1)).value else { return true }
        let text = scope()
        // Variables of one scope share its text, which is counted for each: a bound, not a sum.
        scopeBytes &+= text.utf8.count
        let interval = IntervalIndex<VariableEntry>.Interval(
          start: place.address, end: end, payload: VariableEntry(entry: entry, scope: text, unit: index))
        if place.isThreadLocal { threadLocal.append(interval) } else { ordinary.append(interval) }
        return ordinary.count &+ threadLocal.count < Self.mostVariables && scopeBytes < Self.scopeLimit
      }
    }
    isCut = remaining <= 0
    // Of several at one place, the largest covers the most.
    self.ordinary = IntervalIndex(ordinary) { $0.end < $1.end }
    self.threadLocal = IntervalIndex(threadLocal) { $0.end < $1.end }
    isWhole = insideFunctions
  }

  /// Calls `body` with each variable below `unit`, and what it is declared in, until `body` returns false: then nothing
  /// remains.
  private static func visit(
    _ unit: Dwarf_Die, _ insideFunctions: Bool, _ remaining: inout Int,
    _ body: (_ entry: () -> Dwarf_Die, _ scope: () -> String) -> Bool
  ) {
    var open: [Dwarf_Die] = []
    var scopes: [String?] = []
    var entry = unit
    var next = Dwarf_Die()
    var meter = BudgetMeter(interval: 256)
    while remaining > 0, meter.goesOn() {
      remaining &-= 1
      let tag = Int(truncatingIfNeeded: dwarf_tag(&entry))
      if tag == DW_TAG_variable, dwarf_hasattr(&entry, UInt32(truncatingIfNeeded: DW_AT_location)) != 0 {
        let goesOn = body({ entry }) {
          if let known = scopes.last, let known { return known }
          let scope = Self.scope(open)
          if !scopes.isEmpty { scopes[scopes.count &- 1] = scope }
          return scope
        }
        if !goesOn {
          remaining = 0
          return
        }
      }
      if open.count < deepest, mayHoldVariables(tag, insideFunctions), dwarf_child(&entry, &next) == 0 {
        open.append(entry)
        scopes.append(nil)
        entry = next
        continue
      }
      while dwarf_siblingof(&entry, &next) != 0 {
        guard open.count > 1, meter.goesOn() else { return }
        entry = open.removeLast()
        scopes.removeLast()
      }
      if open.isEmpty { return }
      entry = next
    }
  }

  private static func mayHoldVariables(_ tag: Int, _ insideFunctions: Bool) -> Bool {
    switch tag {
    case DW_TAG_compile_unit, DW_TAG_skeleton_unit, DW_TAG_namespace, DW_TAG_module, DW_TAG_structure_type,
      DW_TAG_class_type:
      true
    case DW_TAG_subprogram, DW_TAG_lexical_block, DW_TAG_inlined_subroutine, DW_TAG_try_block, DW_TAG_catch_block,
      DW_TAG_common_block:
      insideFunctions
    default: false
    }
  }

  private static let longestScope = 4096

  private static func scope(_ open: [Dwarf_Die]) -> String {
    var scope = ""
    for var entry in open where scope.utf8.count < longestScope {
      switch Int(truncatingIfNeeded: dwarf_tag(&entry)) {
      case DW_TAG_namespace, DW_TAG_structure_type, DW_TAG_class_type, DW_TAG_subprogram, DW_TAG_inlined_subroutine:
        var attribute = Dwarf_Attribute()
        if dwarf_attr_integrate(&entry, UInt32(truncatingIfNeeded: DW_AT_name), &attribute) != nil,
          let name = dwarf_formstring(&attribute), name[0] != 0
        {
          scope += "\(String(bounded: name))::"
        }
      default: break
      }
    }
    return scope
  }

  /// Where a variable lies: an address of the ELF file, or an offset in the thread-local storage. nil if that changes
  /// with the program's state.
  private static func place(of entry: Dwarf_Die) -> (address: UInt64, isThreadLocal: Bool)? {
    var entry = entry
    var attribute = Dwarf_Attribute()
    var operations: UnsafeMutablePointer<Dwarf_Op>?
    var count = 0
    var block = Dwarf_Block()
    guard dwarf_attr(&entry, UInt32(truncatingIfNeeded: DW_AT_location), &attribute) != nil,
      dwarf_formblock(&attribute, &block) == 0, block.length <= UInt64(truncatingIfNeeded: longestLocation)
    else { return nil }
    let bytes = UnsafeRawBufferPointer(start: block.data, count: Int(truncatingIfNeeded: block.length))
    if bytes.count == 9, bytes[0] == UInt8(truncatingIfNeeded: DW_OP_addr) {
      return (UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 1, as: UInt64.self)), false)
    }
    guard dwarf_getlocation(&attribute, &operations, &count) == 0, count > 0, count <= 3, let operations else {
      return nil
    }
    var place: UInt64
    switch Int(truncatingIfNeeded: operations[0].atom) {
    case DW_OP_addr, DW_OP_const4u, DW_OP_const8u, DW_OP_constu: place = operations[0].number
    case DW_OP_addrx, DW_OP_GNU_addr_index, DW_OP_constx, DW_OP_GNU_const_index:
      var found = Dwarf_Attribute()
      var address: Dwarf_Addr = 0
      guard dwarf_getlocation_attr(&attribute, operations, &found) == 0, dwarf_formaddr(&found, &address) == 0 else {
        return nil
      }
      place = address
    default: return nil
    }
    let isAddress = [DW_OP_addr, DW_OP_addrx, DW_OP_GNU_addr_index].contains(
      Int(truncatingIfNeeded: operations[0].atom))
    if count == 1 { return isAddress ? (place, false) : nil }
    var isThreadLocal = false
    for index in 1..<max(1, count) {  // bounded: at most 3 operations
      switch Int(truncatingIfNeeded: operations[index].atom) {
      case DW_OP_form_tls_address, DW_OP_GNU_push_tls_address: isThreadLocal = true
      case DW_OP_plus_uconst: place = place &+ operations[index].number
      default: return nil
      }
    }
    return isThreadLocal || isAddress ? (place, isThreadLocal) : nil
  }
}
