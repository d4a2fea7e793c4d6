// SPDX-License-Identifier: Apache-2.0
// Many stacks of one process with their names: each call is named once, and a stack is a list of the numbers of its
// calls. A frame takes a hundred bytes and more, a number four; tens of thousands of stacks are mostly made of the same
// calls.

import IndexReader
import Symbols

/// Call stacks whose calls are named once. A value; stacks can be added to it from one thread.
public struct NamedStacks: Sendable {
  /// A call, with the functions that are inlined there.
  public struct Call: Sendable {
    /// Innermost first; at least one.
    public var frames: [Frame]
    /// Whether the call is an instruction at which a signal interrupted the program.
    public var isExact: Bool
    /// Index in `frames` of the innermost function that is no wrapper; nil if all are wrappers.
    public var site: Int?
  }

  /// A stack that was added.
  public struct Entry: Sendable {
    fileprivate var start: Int
    fileprivate var count: Int
    /// Why calls beyond the last are missing; nil if none are.
    public var truncation: Stack.Truncation?
    fileprivate var framesCut: UInt32?
  }

  private struct Known: Sendable {
    var call: CallAddress
    var number: UInt32
    var span: NameCache.Span
  }

  /// Every call of the stacks; a number is an index.
  public private(set) var calls: [Call] = []
  private var numbers: [UInt32] = []
  private var known: [CallAddress: Known] = [:]
  /// Those of `known` that were met last, each in a place that its address decides: most are met again soon.
  private var recent = [Known?](repeating: nil, count: 2048)
  /// About how many bytes it takes, without the texts of names.
  public private(set) var size = 2048 &* MemoryLayout<Known?>.stride

  public init() {}

  /// The stack of `entry`.
  public subscript(entry: Entry) -> NamedStack {
    var stack = NamedStack(
      frames: [], interrupted: [], siteIndex: nil, truncation: entry.truncation, framesCut: entry.framesCut)
    for number in self.numbers(of: entry) {
      let call = calls[Int(number)]  // bounded: an index of the calls
      if stack.siteIndex == nil, let site = call.site { stack.siteIndex = stack.frames.count &+ site }
      stack.frames.append(contentsOf: call.frames)
      // A signal interrupts a call with all that is inlined there; the mark is at the function that has the frame.
      if call.isExact { stack.interrupted.append(stack.frames.count &- 1) }
    }
    if stack.siteIndex == nil, !stack.frames.isEmpty { stack.siteIndex = stack.frames.count &- 1 }
    return stack
  }

  /// The numbers of the calls of `entry`, innermost first.
  public func numbers(of entry: Entry) -> ArraySlice<UInt32> {
    numbers.dropFirst(entry.start).prefix(entry.count)  // bounded: both were counted here
  }

  /// Adds the stack that ends in `node`, in a record with `ticks`.
  public mutating func add(node: UInt32, at ticks: UInt32, _ naming: StackNaming) -> Entry {
    let stack = naming.addresses(ofNode: node)
    let start = numbers.count
    for depth in stack.addresses.indices {
      let call = stack.call(at: depth)
      numbers.append(number(of: call, at: ticks, naming))
    }
    // A list that grows is copied into one of twice the room.
    size &+= stack.addresses.count &* 12
    return Entry(
      start: start, count: numbers.count &- start, truncation: stack.truncation, framesCut: stack.framesCut)
  }

  /// Adds a stack of calls that have been named elsewhere.
  mutating func add(_ named: [Call], truncation: Stack.Truncation?) -> Entry {
    let start = numbers.count
    for call in named { numbers.append(append(call)) }
    return Entry(start: start, count: named.count, truncation: truncation, framesCut: nil)
  }

  private mutating func number(of call: CallAddress, at ticks: UInt32, _ naming: StackNaming) -> UInt32 {
    // The top bits of the product depend on all bits of the address.
    let place = Int(truncatingIfNeeded: (call.pc &* 0x9E37_79B9_7F4A_7C15) >> 53)
    if let last = recent[place], last.call == call, last.span.covers(ticks) { return last.number }
    if let found = known[call], found.span.covers(ticks) {
      recent[place] = found
      return found.number
    }
    let named = naming.name(call, at: ticks)
    let number = append(Call(frames: named.frames, isExact: call.isExact, site: named.site))
    if let span = named.span {
      let found = Known(call: call, number: number, span: span)
      (known[call], recent[place]) = (found, found)
    }
    return number
  }

  private mutating func append(_ call: Call) -> UInt32 {
    calls.append(call)
    size &+= 3 &* (MemoryLayout<CallAddress>.stride &+ MemoryLayout<Known>.stride &+ MemoryLayout<Call>.stride)
    size &+= call.frames.count &* MemoryLayout<Frame>.stride &+ 32
    return UInt32(truncatingIfNeeded: calls.count &- 1)
  }
}
