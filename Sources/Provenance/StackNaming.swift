// SPDX-License-Identifier: Apache-2.0
// From a node of the trie of call stacks to names: the frames of the stack, and which of them is the allocation site.
//
// The site is the innermost function that is no wrapper; a function without a name is no wrapper. If all are wrappers
// (the stack was cut inside them, or only the call site is recorded), the site is the outermost function, which is
// nearest to the purpose of the allocation.
//
// The names at a return address are right for all records as long as one module alone has ever held the address. Such
// an address is named once, and a stack of such addresses is rendered once (NameCache). An address whose node says its
// module is treated in the same way. Other addresses, in memory from which a module was unloaded, are named for each
// record anew, by the record's time.
//
// Stacks and names come from outside: the loops ask the question's budget, a stack's frames are counted as its memory
// while they are put together, and what a budget cut short is not kept.

import Bounds
import IndexReader
import Symbols

/// The function of a program that an allocation is attributed to.
public struct Site: Sendable {
  /// Tells sites apart: the address, and the module that held it.
  public struct Key: Hashable, Comparable, Sendable {
    /// The address of the call, as `Frame.pc` has it.
    public var pc: UInt64
    /// Index in the module table, plus 1; 0 for none.
    public var module: UInt32

    public static func < (a: Key, b: Key) -> Bool { (a.pc, a.module) < (b.pc, b.module) }
  }
  /// Equal for all stacks that lead through the site.
  public var key: Key
  /// The site's frame, and the functions that it is inlined into.
  public var frames: [Frame]
}

/// Names call stacks of one process, as of one moment. Made for one request and used from one thread.
public struct StackNaming {
  typealias NamedAddress = NameCache.NamedAddress
  private typealias Span = NameCache.Span

  private let tables: any OriginTables
  private let wrappers: Wrappers
  /// The process's own names; a list for this request alone if it has wrappers of its own.
  private let names: NameCache
  private let version: ModuleTableVersion
  /// Seconds of CLOCK_MONOTONIC.
  private let now: Int

  /// `wrappers` are passed over in the search for a site.
  public init(_ tables: any OriginTables, wrappers: Wrappers = .standard) {
    self.tables = tables
    self.wrappers = wrappers
    names = wrappers.isStandard ? tables.names : NameCache()
    version = tables.moduleTableVersion
    now = Symbolizer.monotonicSeconds()
  }

  // MARK: sites

  /// The site of the stack that ends in `node`, in a record with `ticks`; nil if the stack is empty.
  public func site(ofNode node: UInt32, at ticks: UInt32) -> Site? {
    guard let (address, frame) = siteAddress(ofNode: node, at: ticks) else { return nil }
    return Site(key: key(of: address), frames: Array(address.frames.dropFirst(max(0, frame))))
  }

  /// The key of the site of the stack that ends in `node`.
  public func siteKey(ofNode node: UInt32, at ticks: UInt32) -> Site.Key? {
    siteAddress(ofNode: node, at: ticks).map { key(of: $0.address) }
  }

  private func key(of address: NamedAddress) -> Site.Key {
    Site.Key(pc: address.frames.first?.pc ?? 0, module: address.module)
  }

  /// Whether the names up to the site of the stack that ends in `node` are known: then finding the site takes
  /// microseconds, and reads no file.
  package func knowsSite(ofNode node: UInt32, at ticks: UInt32) -> Bool {
    var walk = StackWalk(from: node)
    var meter = BudgetMeter(interval: 64)
    while meter.goesOn(), let call = walk.next({ tables.node($0) }) {
      if call.truncation != nil, tables.isAgent(call.pc) { break }
      let known = names.find(CallAddress(call), ticks: ticks, version: version, now: now)
      guard let known else { return false }
      if known.site != nil { return true }
    }
    return true
  }

  private func siteAddress(ofNode node: UInt32, at ticks: UInt32) -> (address: NamedAddress, frame: Int)? {
    var walk = StackWalk(from: node)
    var outermost: NamedAddress?
    var meter = BudgetMeter(interval: 64)
    while meter.goesOn(), let call = walk.next({ tables.node($0) }) {
      // The agent's own call, at the end of a stack that was cut: no stack shows it (Stack.init(ofNode:)).
      if call.truncation != nil, tables.isAgent(call.pc) { break }
      let address = name(CallAddress(call), at: ticks)
      if let frame = address.site { return (address, frame) }
      outermost = address
    }
    return outermost.map { ($0, $0.frames.count &- 1) }
  }

  // MARK: stacks

  /// The stack that ends in `node`, in a record with `ticks`; nil if it is empty.
  public func stack(ofNode node: UInt32, at ticks: UInt32) -> NamedStack? {
    let stack = named(tables.stack(ofNode: node), at: ticks).stack
    return stack.frames.isEmpty ? nil : stack
  }

  /// The stack that ends in `node`, rendered by `render`; nil if it is empty. The bytes are kept for the next request,
  /// so all who ask must render in one way.
  package func json(ofNode node: UInt32, at ticks: UInt32, render: (NamedStack) -> [UInt8]) -> [UInt8]? {
    if let known = names.json(ofNode: node, ticks: ticks, version: version, now: now) { return known }
    let (stack, span) = named(tables.stack(ofNode: node), at: ticks)
    guard !stack.frames.isEmpty else { return nil }
    let json = render(stack)
    // A trie that contradicts itself may be one that was not seen whole.
    if let span, stack.truncation != .damaged, !Budget.hasEnded {
      names.store(json: json, ofNode: node, span: span, version: version)
    }
    return json
  }

  /// Whether all names in the stack that ends in `node` are known: then naming it takes microseconds, and reads no
  /// file.
  package func knows(node: UInt32, at ticks: UInt32) -> Bool {
    if names.json(ofNode: node, ticks: ticks, version: version, now: now) != nil { return true }
    let stack = tables.stack(ofNode: node)
    return stack.addresses.indices.allSatisfy { depth in
      names.find(stack.call(at: depth), ticks: ticks, version: version, now: now) != nil
    }
  }

  /// The stack with names, and the records for which they are right; nil if for records with `ticks` only.
  private func named(_ stack: Stack, at ticks: UInt32) -> (stack: NamedStack, span: Span?) {
    var named = NamedStack(
      frames: [], interrupted: [], siteIndex: nil, truncation: stack.truncation, framesCut: stack.framesCut)
    var span: Span? = Span()
    var cost = 0
    defer { Budget.current?.giveBack(bytes: cost) }
    for depth in stack.addresses.indices {
      let call = stack.call(at: depth)
      let address = name(call, at: ticks)
      if let part = address.span { span?.narrow(to: part) } else { span = nil }
      let size = address.frames.count &* MemoryLayout<Frame>.stride
      cost &+= size
      if Budget.current?.spend(bytes: size) == false { break }
      if named.siteIndex == nil, let site = address.site { named.siteIndex = named.frames.count &+ site }
      named.frames.append(contentsOf: address.frames)
      // A signal interrupts a call with all that is inlined there; the mark is at the function that has the frame.
      if call.isExact { named.interrupted.append(named.frames.count &- 1) }
    }
    if named.siteIndex == nil, !named.frames.isEmpty { named.siteIndex = named.frames.count &- 1 }
    return (named, span)
  }

  // MARK: addresses

  /// The calls of the stack that ends in `node`.
  func addresses(ofNode node: UInt32) -> Stack { tables.stack(ofNode: node) }

  /// The functions at `call` in a record with `ticks`.
  func name(_ call: CallAddress, at ticks: UInt32) -> NamedAddress {
    if let known = names.find(call, ticks: ticks, version: version, now: now) { return known }
    let found = tables.names(at: call, ticks: ticks)
    let (frames, module) = (found.frames, found.module)
    var span = Span()
    if let module, call.holder == .unsaid { span.loaded = (module.loadTicks, module.loadTicks) }
    if let since = found.since { span.loaded = (since, since) }
    if !found.isFinal { span.end = now &+ Symbolizer.retryInterval }
    let isLasting =
      !found.isOfRecord && (call.holder != .unsaid || tables.isOnly(module, at: call.instruction))
    let address = NamedAddress(
      frames: frames, site: frames.firstIndex { frame in frame.function.map { !wrappers.contains($0) } ?? true },
      module: module.map { $0.index &+ 1 } ?? 0, span: isLasting ? span : nil)
    if !Budget.hasEnded { names.store(address, at: call, version: version) }
    return address
  }
}

extension Stack {
  /// The call at a depth of the stack, 0 for the innermost.
  func call(at depth: Int) -> CallAddress {
    CallAddress(pc: addresses[depth], isExact: interrupted.contains(depth), holder: holder(ofCallAt: depth))
  }
}
