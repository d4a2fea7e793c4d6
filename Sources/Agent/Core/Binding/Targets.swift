// SPDX-License-Identifier: Apache-2.0
// Targets: the functions of one module that are to be hooked at their entries: from its dynamic
// symbol table and, for the executable, from the static symbol table, too.
//
// Invariants:
// - Each function is there once, whatever its names: families with a function in common are one
//   family. Which families these are is known when all symbols have been seen. Only then is a
//   family judged, so the order of the symbols does not matter.
// - A family is there only if it has a function that allocates and a function that frees: else its
//   names mean something else.
// - A function for which there is no room is noted as not seen.

import AgentMachine
import SharedLayout

struct Targets {
  typealias Module = UnsafeMutablePointer<link_map>

  /// Where a module stands to the agent.
  enum Position {
    /// Before the agent: callers of malloc get the module's malloc, if it has one.
    case before
    /// Behind the agent: callers of malloc get the agent's malloc, which calls the malloc of the
    /// first such module.
    case behind
    /// The module comes after the start, or belongs to a namespace of its own. Only callers that
    /// ask for its functions get them.
    case apart
  }

  /// The family that callers of malloc get.
  static let winning = UInt8(ALLOCS_FAMILY_COUNT)
  private static let familyWithoutPrefix = UInt8(ALLOCS_FAMILY_OWN)
  private static let tokens = UInt8(ALLOCS_FAMILY_TOKEN)
  private static let nothing = UInt8.max
  private static let size = UInt64(MemoryLayout<allocs_target>.stride * Int(ALLOCS_TARGET_CAPACITY))

  private var memory: UnsafeMutablePointer<allocs_target>?
  private(set) var count = 0
  /// Functions that found no place.
  private(set) var dropped = 0
  /// For each family, the family that it is a part of.
  private var unions = InlineArray<16, UInt8>(repeating: 0)
  /// Where the functions are that tell of heaps; 0 if there are none.
  private(set) var visitor: UInt64 = 0
  private(set) var backing: UInt64 = 0
  private var makesHeapsThatStay = false
  private var position = Position.before

  subscript(_ index: Int) -> allocs_target {
    get { memory.unsafelyUnwrapped[index] }
    nonmutating set { memory.unsafelyUnwrapped[index] = newValue }
    nonmutating _modify { yield &memory.unsafelyUnwrapped[index] }
  }

  mutating func unmap() {
    if let memory { System.unmap(memory, Self.size) }
    memory = nil
    count = 0
  }

  /// Puts the functions of `module` here.
  mutating func collect(_ module: Module, _ position: Position) {
    count = 0
    dropped = 0
    (visitor, backing, makesHeapsThatStay) = (0, 0, false)
    for family in 0..<16 { unions[family] = UInt8(family) }
    self.position = position
    let symbols = DynamicSymbols(module)
    if let symbols {
      switch position {
      case .before: collectWinning(module, symbols)
      case .behind: collectServing(symbols)
      case .apart: break
      }
      collectFamilies(symbols)
      if position == .behind, forwards(symbols) { removeAll() }
    }
    if module == allocs_first_link_map() { collectStatic(module, symbols) }
    if count > 0 { settle() }
  }

  /// Functions with the agent's names that callers get from this module.
  private mutating func collectWinning(_ module: Module, _ symbols: DynamicSymbols) {
    var index: UInt32 = 0
    while let entry = allocs_entry_point(index) {
      index += 1
      guard let symbol = symbols.symbol(of: entry.pointee.name), !Self.isDefined(entry.pointee.name, before: module)
      else { continue }
      appendWinning(entry, symbol, below: entry.pointee.below)
    }
  }

  private static func isDefined(_ name: UnsafePointer<CChar>, before module: Module) -> Bool {
    var earlier = allocs_first_link_map()
    while let current = earlier, current != module {
      if DynamicSymbols(current)?.symbol(of: name) != nil { return true }
      earlier = current.pointee.l_next
    }
    return false
  }

  /// Functions with the agent's names that are the functions below the agent. Once they are hooked,
  /// a caller that calls them past the agent gets to it, too.
  private mutating func collectServing(_ symbols: DynamicSymbols) {
    var index: UInt32 = 0
    while let entry = allocs_entry_point(index) {
      index += 1
      #if ALLOCS_INEXE
        let place = entry.pointee.below
      #else
        let place = Definitions.placeOfBelow(entry)
      #endif
      guard !entry.pointee.is_operator, let below = place.pointee,
        let symbol = symbols.symbol(of: entry.pointee.name), symbol.address == UInt64(UInt(bitPattern: below))
      else { continue }
      appendWinning(entry, symbol, below: place)
    }
  }

  /// Whether a library that serves the agent's callers only forwards to the next one, as a library
  /// that counts calls does: it has malloc's names and no others, and asks for the functions that
  /// come after its own. All calls that reach it have passed the agent.
  private func forwards(_ symbols: DynamicSymbols) -> Bool {
    for index in 0..<count where self[index].signature != nil { return false }
    return symbols.imports("dlsym") || symbols.imports(Libc.malloc)
  }

  private mutating func appendWinning(
    _ entry: UnsafePointer<allocs_entry_point>, _ symbol: DynamicSymbols.Symbol,
    below: UnsafeMutablePointer<UnsafeMutableRawPointer?>
  ) {
    append(
      allocs_target(
        prefix: allocs_family(0).pointee.prefix, name: entry.pointee.name, address: symbol.address, size: symbol.size,
        moved: 0, own: entry.pointee.own, below: below, signature: nil, type: symbol.type,
        family: Self.winning, is_essential: entry.pointee.is_essential, is_operator: entry.pointee.is_operator,
        is_ambiguous: false, preserves: false, leads_to: 0, token: 0, original: (0, 0, 0, 0, 0, 0, 0, 0), record: nil))
  }

  /// Families by the names that the module exports. A family is looked for by its functions that
  /// free. In a module before the agent, only the first definition of each of the agent's names
  /// counts, which is the winning one.
  private mutating func collectFamilies(_ symbols: DynamicSymbols) {
    for family in 0..<Self.winning {
      if family == Self.tokens {
        collectTokens(symbols)
      } else if collect(family, symbols, frees: true) {
        _ = collect(family, symbols, frees: false)
      }
    }
  }

  private mutating func collect(
    _ family: UInt8, _ symbols: DynamicSymbols, frees: Bool?, token: UInt16 = 0
  ) -> Bool {
    var isThere = false
    var index: UInt32 = 0
    while let signature = allocs_signature(index) {
      index += 1
      guard signature.pointee.families >> UInt32(family) & 1 != 0, frees == nil || allocs_frees(signature) == frees,
        position != .before || family != Self.familyWithoutPrefix || !Self.isEntryPoint(signature.pointee.name)
      else { continue }
      let name = Self.name(family, token, signature.pointee.name)
      guard let symbol = name.withCString({ symbols.symbol(of: $0) }) else { continue }
      isThere = true
      append(family, signature, symbol, token: token)
    }
    return isThere
  }

  /// clang passes the token as one more argument, or, with its faster interface, writes it into the
  /// name, counted from 0.
  private mutating func collectTokens(_ symbols: DynamicSymbols) {
    _ = collect(Self.tokens, symbols, frees: nil)
    var token: UInt16 = 1
    while token < UInt16(ALLOCS_TARGET_CAPACITY), collect(Self.tokens, symbols, frees: nil, token: token) { token += 1 }
  }

  static func name(_ family: UInt8, _ token: UInt16, _ rest: UnsafePointer<CChar>) -> Text {
    var name = Text()
    name.append(cString: allocs_family(UInt32(family)).pointee.prefix)
    if token != 0 {
      name.append(UInt64(token - 1))
      name.append("_")
    }
    name.append(cString: rest)
    return name
  }

  /// A target's name in the symbol table.
  func name(of index: Int) -> Text {
    var name = Text()
    name.append(cString: self[index].prefix)
    if self[index].token != 0 {
      name.append(UInt64(self[index].token - 1))
      name.append("_")
    }
    name.append(cString: self[index].name)
    return name
  }

  private static func isEntryPoint(_ name: UnsafePointer<CChar>) -> Bool {
    var index: UInt32 = 0
    while let entry = allocs_entry_point(index) {
      if StaticSymbols.isEqual(entry.pointee.name, name) { return true }
      index += 1
    }
    return false
  }

  private mutating func collectStatic(_ module: Module, _ dynamic: DynamicSymbols?) {
    guard var symbols = StaticSymbols(module) else { return }
    while let found = symbols.next() { append(found.family, found.signature, found.symbol, token: found.token) }
    symbols.unmap()
  }

  /// The last function of a chain: each function of it but the last only jumps to the next, which
  /// is hooked as well. The function below a hooked function must be the last of its chain, as the
  /// others have hooks, too.
  func end(of index: Int) -> Int {
    var index = index
    var steps = 0
    while self[index].leads_to != 0, self[Int(self[index].leads_to) - 1].moved != 0, steps < count {
      index = Int(self[index].leads_to) - 1
      steps += 1
    }
    return index
  }

  /// Hooks a function with a stub that preserves all registers for its callers.
  func preserveRegisters(of index: Int) {
    if self[index].signature == nil {
      // Such a stub needs a signature; the winning family has no prefix.
      var number: UInt32 = 0
      while let signature = allocs_signature(number), !StaticSymbols.isEqual(signature.pointee.name, self[index].name) {
        number += 1
      }
      self[index].signature = allocs_signature(number)
    }
    self[index].preserves = true
    self[index].own = allocs_preserving_stub()
  }

  // MARK: one more

  private mutating func append(
    _ family: UInt8, _ signature: UnsafePointer<allocs_signature>, _ symbol: DynamicSymbols.Symbol, token: UInt16
  ) {
    guard UInt32(signature.pointee.operation) != ALLOCS_HELPER.rawValue else {
      return help(allocs_helper(UInt32(signature.pointee.function)), symbol)
    }
    let name = signature.pointee.name
    append(
      allocs_target(
        prefix: allocs_family(UInt32(family)).pointee.prefix, name: name, address: symbol.address, size: symbol.size,
        moved: 0, own: allocs_signature_stub(signature, UInt32(family)), below: nil, signature: signature,
        type: symbol.type, family: family, is_essential: allocs_frees(signature),
        is_operator: name[0] == 0x5F && name[1] == 0x5A /* _Z */, is_ambiguous: false, preserves: false, leads_to: 0,
        token: token, original: (0, 0, 0, 0, 0, 0, 0, 0), record: nil))
  }

  private mutating func help(_ helper: allocs_helper, _ symbol: DynamicSymbols.Symbol) {
    guard symbol.type == DynamicSymbols.function else { return }
    switch helper {
    case ALLOCS_HELPER_VISIT: visitor = symbol.address
    case ALLOCS_HELPER_BACKING: backing = symbol.address
    default: makesHeapsThatStay = true
    }
  }

  /// Whether the allocator tells which blocks go when a heap is destroyed.
  var knowsHeaps: Bool { visitor != 0 && backing != 0 && !makesHeapsThatStay }

  private mutating func append(_ target: allocs_target) {
    var target = target
    for index in 0..<count {
      if self[index].address == target.address { return join(self[index].family, target.family) }
      guard self[index].token == target.token, StaticSymbols.isEqual(self[index].prefix, target.prefix),
        StaticSymbols.isEqual(self[index].name, target.name)
      else { continue }
      if self[index].signature == nil {
        // Callers get the function that is exported. This one belongs to a single source file.
        target.is_essential = false
      } else {
        self[index].is_ambiguous = true
      }
      target.is_ambiguous = true
    }
    if memory == nil { memory = System.map(Self.size)?.assumingMemoryBound(to: allocs_target.self) }
    guard let memory, count < Int(ALLOCS_TARGET_CAPACITY) else {
      dropped += 1
      return
    }
    memory[count] = target
    count += 1
  }

  /// Two names of one function: they are of one allocator.
  private mutating func join(_ one: UInt8, _ other: UInt8) {
    let (one, other) = (union(of: one), union(of: other))
    // The winning family wins over all others, and a family with a name over one without.
    func rank(_ family: UInt8) -> Int {
      family == Self.winning ? 2 : allocs_family(UInt32(family)).pointee.allocator.pointee != 0 ? 1 : 0
    }
    if rank(one) >= rank(other) { unions[Int(other)] = one } else { unions[Int(one)] = other }
  }

  private func union(of family: UInt8) -> UInt8 {
    var family = family
    while unions[Int(family)] != family { family = unions[Int(family)] }
    return family
  }

  // MARK: which of them stay

  private mutating func settle() {
    // If callers get some of a module's functions with malloc's names, and the module has others
    // for itself, all belong to one allocator.
    if hasMalloc(Self.winning) { join(Self.familyWithoutPrefix, Self.winning) }
    join(Self.familyWithoutPrefix, Self.tokens)
    for index in 0..<count { self[index].family = union(of: self[index].family) }
    for family in 0..<Self.winning where !isWhole(family) {
      for index in 0..<count where self[index].family == family { self[index].family = Self.nothing }
    }
    remove(Self.nothing)
  }

  /// Takes a family out.
  mutating func remove(_ family: UInt8) {
    var kept = 0
    for index in 0..<count where self[index].family != family {
      self[kept] = self[index]
      kept += 1
    }
    count = kept
  }

  mutating func removeAll() { count = 0 }

  /// The address of the winning function of this name; 0 if there is none.
  func winner(_ name: StaticString) -> UInt64 {
    let name = UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self)
    for index in 0..<count
    where self[index].signature == nil && StaticSymbols.isEqual(self[index].name, name) {
      return self[index].address
    }
    return 0
  }

  /// Whether the family has more than operators of C++. Operators alone may be the C++ library's,
  /// linked in, which call malloc.
  func hasMalloc(_ family: UInt8) -> Bool {
    for index in 0..<count where self[index].family == family && !self[index].is_operator { return true }
    return false
  }

  private func isWhole(_ family: UInt8) -> Bool {
    var allocates = false
    var frees = false
    for index in 0..<count where self[index].family == family && !self[index].is_operator {
      guard let signature = self[index].signature else { return true }
      switch UInt32(signature.pointee.operation) {
      case ALLOCS_ALLOCATE.rawValue, ALLOCS_ALLOCATE_TEXT.rawValue: allocates = true
      case ALLOCS_FREE.rawValue: frees = true
      default: break
      }
    }
    return allocates && frees
  }
}
