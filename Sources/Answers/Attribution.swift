// From a node of the stack trie to names: the frames of a call stack, and which of them is the allocation site.
//
// The site is the innermost function that is no wrapper; a function without a name is none. If all are wrappers (the
// stack was cut inside them, or only the call site is recorded), it is the outermost function, the nearest to what it
// was made for.
//
// A return address means the same in each record as long as one module alone has ever held it. Such an address gets its
// names once, and a stack of such addresses is rendered once (NameCache). So does one whose node names its module. The
// others, of memory from which a module was unloaded, are looked up for each record, by its time.

import IndexReader
import SharedLayout
import Symbols

/// A call stack with names.
public struct NamedStack: Hashable, Sendable {
  /// Innermost first.
  public var frames: [Frame]
  /// Indices of the frames that a signal interrupted.
  public var interrupted: [Int]
  /// Index of the allocation site; nil if there is no frame.
  public var siteIndex: Int?
  public var truncation: Stack.Truncation?
  /// At least so many frames were cut at the depth limit; nil if none were, or it is not known.
  public var framesCut: UInt32?

  public init(
    frames: [Frame], interrupted: [Int], siteIndex: Int?, truncation: Stack.Truncation?, framesCut: UInt32?
  ) {
    self.frames = frames
    self.interrupted = interrupted
    self.siteIndex = siteIndex
    self.truncation = truncation
    self.framesCut = framesCut
  }
}

/// The place in a program that an allocation is attributed to.
struct Site {
  /// Tells sites apart: the address, and the module that held it (0 for none).
  struct Key: Hashable, Comparable {
    var pc: UInt64
    var module: UInt32

    static func < (a: Key, b: Key) -> Bool { (a.pc, a.module) < (b.pc, b.module) }
  }
  var key: Key
  /// The site's frame, and the functions that it is inlined into.
  var frames: [Frame]
}

/// Names call stacks of one process, as of one moment. Used for one request, from one thread.
struct Attribution: ~Copyable {
  private typealias Place = NameCache.Place
  private typealias Span = NameCache.Span

  private static let depthLimit = 1 << 16

  private let view: ProcessView
  private let wrappers: Wrappers
  /// The process's own; one for this request if it has wrappers of its own.
  private let names: NameCache
  private let version: ModuleTableVersion
  /// Monotonic seconds.
  private let now: Int

  init(_ view: ProcessView, wrappers: Wrappers) {
    self.view = view
    self.wrappers = wrappers
    names = wrappers.isStandard ? view.names : NameCache()
    version = view.shared.segment.moduleTableVersion
    now = Symbolizer.monotonicSeconds()
  }

  // MARK: sites

  /// The site of the stack that ends in `node`, in a record with `ticks`; nil if the node is none.
  mutating func site(ofNode node: UInt32, at ticks: UInt32) -> Site? {
    guard let (place, frame) = sitePlace(ofNode: node, at: ticks) else { return nil }
    return Site(key: Site.Key(pc: place.frames[0].pc, module: place.module), frames: Array(place.frames[frame...]))
  }

  /// As `site`, without its frames.
  mutating func siteKey(ofNode node: UInt32, at ticks: UInt32) -> Site.Key? {
    sitePlace(ofNode: node, at: ticks).map { Site.Key(pc: $0.place.frames[0].pc, module: $0.place.module) }
  }

  private mutating func sitePlace(ofNode node: UInt32, at ticks: UInt32) -> (place: Place, frame: Int)? {
    var next = node
    var outermost: Place?
    var depth = 0
    while next != 0, depth < Self.depthLimit, let entry = view.shared.segment.node(next) {
      let place = place(at: entry.pc, isExact: entry.isInterrupted, entry.holder, ticks)
      if let frame = place.site { return (place, frame) }
      outermost = place
      if entry.truncation != nil { break }
      next = entry.parent
      depth += 1
    }
    return outermost.map { ($0, $0.frames.count - 1) }
  }

  // MARK: stacks

  /// The stack that ends in `node`, in a record with `ticks`; nil if it has no frame.
  mutating func stack(ofNode node: UInt32, at ticks: UInt32) -> NamedStack? {
    let stack = named(view.shared.segment.stack(ofNode: node), at: ticks).stack
    return stack.frames.isEmpty ? nil : stack
  }

  /// The fields of an answer that come from the stack that ends in `node`.
  mutating func appendJSON(ofNode node: UInt32, at ticks: UInt32, to writer: inout ByteWriter) {
    if let known = names.json(ofNode: node, ticks: ticks, version: version, now: now) {
      writer.append(bytes: known)
      return
    }
    let (stack, span) = named(view.shared.segment.stack(ofNode: node), at: ticks)
    guard !stack.frames.isEmpty else { return }
    var part = ByteWriter(capacity: 4096)
    part.append(stack: stack)
    let json = part.take()
    writer.append(bytes: json)
    // A trie that contradicts itself may be one that was not seen whole.
    if let span, stack.truncation != .damaged {
      names.store(json: json, ofNode: node, span: span, version: version)
    }
  }

  /// Whether all names in the stack that ends in `node` are known: then it takes microseconds, and reads no file.
  func knows(node: UInt32, at ticks: UInt32) -> Bool {
    if names.json(ofNode: node, ticks: ticks, version: version, now: now) != nil { return true }
    let stack = view.shared.segment.stack(ofNode: node)
    return stack.addresses.indices.allSatisfy { depth in
      let address = NameCache.Address(
        pc: stack.addresses[depth], isExact: stack.interrupted.contains(depth), holder: stack.holder(ofCallAt: depth))
      return names.place(at: address, ticks: ticks, version: version, now: now) != nil
    }
  }

  /// The stack with names, and the records for which they are right; nil if for this one only.
  private mutating func named(_ stack: Stack, at ticks: UInt32) -> (stack: NamedStack, span: Span?) {
    var named = NamedStack(
      frames: [], interrupted: [], siteIndex: nil, truncation: stack.truncation, framesCut: stack.framesCut)
    var span: Span? = Span()
    for (depth, pc) in stack.addresses.enumerated() {
      let isExact = stack.interrupted.contains(depth)
      let place = place(at: pc, isExact: isExact, stack.holder(ofCallAt: depth), ticks)
      if let part = place.span { span?.narrow(to: part) } else { span = nil }
      if named.siteIndex == nil, let site = place.site { named.siteIndex = named.frames.count + site }
      named.frames += place.frames
      // What is inlined there was interrupted as a whole; the mark is at the function that has the frame.
      if isExact { named.interrupted.append(named.frames.count - 1) }
    }
    if named.siteIndex == nil, !named.frames.isEmpty { named.siteIndex = named.frames.count - 1 }
    return (named, span)
  }

  // MARK: addresses

  /// What is at `pc` in a record with `ticks`, by what its node says of its module.
  private mutating func place(at pc: UInt64, isExact: Bool, _ holder: CallHolder, _ ticks: UInt32) -> Place {
    let address = NameCache.Address(pc: pc, isExact: isExact, holder: holder)
    if let known = names.place(at: address, ticks: ticks, version: version, now: now) { return known }
    // The call instruction, one byte below, decides: a call may be the last instruction of its module.
    let instruction = isExact ? pc : pc &- 1
    let module = view.shared.segment.module(of: holder, containing: instruction, at: ticks)
    let loss: NameLoss? = holder == .dropped ? .noRoom : holder == .forgotten ? .forgotten : nil
    var frames = [Frame(pc: pc, module: module?.path, unnamed: loss)]
    var span = Span()
    if let module {
      let (found, isFinal) = view.symbolizer.lookup(
        returnAddress: instruction &+ 1, in: ModuleReference(module, in: view.shared.segment))
      if !found.isEmpty { frames = found }
      if isExact { for index in frames.indices { frames[index].pc = pc } }
      if holder == .unsaid { span.loaded = (module.loadTicks, module.loadTicks) }
      if !isFinal { span.end = now + Symbolizer.retryInterval }
    }
    let place = Place(
      frames: frames, site: frames.firstIndex { frame in frame.function.map { !wrappers.contains($0) } ?? true },
      module: module.map { $0.index + 1 } ?? 0,
      span: holder != .unsaid || view.shared.segment.isOnly(module, at: instruction) ? span : nil)
    names.store(place, at: address, version: version)
    return place
  }
}
