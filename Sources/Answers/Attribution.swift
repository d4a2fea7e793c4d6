// From a node of the stack trie to names: the frames of a call stack, and which of them is the allocation site.
//
// The site is the innermost function that is no wrapper; a function without a name is none. If all are wrappers (the
// stack was cut inside them, or only the call site is recorded), it is the outermost function, the nearest to what it
// was made for.
//
// A return address means the same in each record as long as one module alone has ever held it. Such an address gets its
// names once, and a node whose addresses up to its site are all such gets its site once. The others, of memory from
// which a module was unloaded, are looked up for each record, by its time.

import IndexReader
import SharedLayout
import Symbols

/// A call stack with names.
struct NamedStack {
  /// Innermost first.
  var frames: [Frame]
  /// Indices of the frames that a signal interrupted.
  var interrupted: [Int]
  /// Index of the allocation site; nil if there is no frame.
  var siteIndex: Int?
  var truncation: Stack.Truncation?
  /// At least so many frames were cut at the depth limit; nil if none were, or it is not known.
  var framesCut: UInt32?
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

/// Names call stacks of one process. Used for one request, from one thread.
struct Attribution: ~Copyable {
  private struct Address: Hashable {
    var pc: UInt64
    /// Not a return address, but the instruction itself.
    var isExact: Bool
  }

  /// What one address leads to.
  private struct Place {
    var frames: [Frame]
    /// Index in `frames` of the innermost function that is no wrapper.
    var site: Int?
    /// Index in the module table, plus 1.
    var module: UInt32
    /// Whether it is the same in all records.
    var isFixed: Bool
  }

  /// A site, or the place that stands in for it.
  private struct SiteReference {
    var place: Int
    var frame: Int
    var isFixed: Bool
  }

  private static let depthLimit = 1 << 16
  /// Stacks that are kept with names, each a few kilobytes.
  private static let stackLimit = 2048

  private let view: ProcessView
  private let wrappers: Wrappers
  /// All modules, as of the first question.
  private var modules: [Module]?
  private var indexOfPlace: [Address: Int] = [:]
  private var places: [Place] = []
  private var siteOfNode: [UInt32: SiteReference] = [:]
  private var stackOfNode: [UInt32: NamedStack] = [:]
  private var jsonOfNode: [UInt32: [UInt8]] = [:]
  /// Place for an address that is not kept.
  private static let scratch = 0

  init(_ view: ProcessView, wrappers: Wrappers) {
    self.view = view
    self.wrappers = wrappers
    places.append(Place(frames: [], site: nil, module: 0, isFixed: false))
  }

  // MARK: sites

  /// The site of the stack that ends in `node`, in a record with `ticks`; nil if the node is none.
  mutating func site(ofNode node: UInt32, at ticks: UInt32) -> Site? {
    guard let reference = siteReference(ofNode: node, at: ticks) else { return nil }
    let place = places[reference.place]
    return Site(
      key: Site.Key(pc: place.frames[0].pc, module: place.module), frames: Array(place.frames[reference.frame...]))
  }

  /// As `site`, without its frames.
  mutating func siteKey(ofNode node: UInt32, at ticks: UInt32) -> Site.Key? {
    guard let reference = siteReference(ofNode: node, at: ticks) else { return nil }
    return Site.Key(pc: places[reference.place].frames[0].pc, module: places[reference.place].module)
  }

  private mutating func siteReference(ofNode node: UInt32, at ticks: UInt32) -> SiteReference? {
    if let known = siteOfNode[node] { return known }
    var next = node
    var isFixed = true
    var outermost: SiteReference?
    var depth = 0
    while next != 0, depth < Self.depthLimit, let entry = view.shared.segment.node(next) {
      let index = place(at: entry.pc, isExact: entry.isInterrupted, ticks)
      isFixed = isFixed && places[index].isFixed
      if let frame = places[index].site {
        outermost = SiteReference(place: index, frame: frame, isFixed: isFixed)
        break
      }
      outermost = SiteReference(place: index, frame: places[index].frames.count - 1, isFixed: isFixed)
      if entry.truncation != nil { break }
      next = entry.parent
      depth += 1
    }
    if let outermost, outermost.isFixed { siteOfNode[node] = outermost }
    return outermost
  }

  // MARK: stacks

  /// The stack that ends in `node`, in a record with `ticks`; nil if it has no frame.
  mutating func stack(ofNode node: UInt32, at ticks: UInt32) -> NamedStack? {
    if let known = stackOfNode[node] { return known }
    let (stack, isFixed) = named(view.shared.segment.stack(ofNode: node), at: ticks)
    guard !stack.frames.isEmpty else { return nil }
    if isFixed {
      if stackOfNode.count >= Self.stackLimit { stackOfNode.removeAll(keepingCapacity: true) }
      stackOfNode[node] = stack
    }
    return stack
  }

  /// The fields of an answer that come from the stack that ends in `node`.
  mutating func appendJSON(ofNode node: UInt32, at ticks: UInt32, to writer: inout ByteWriter) {
    if let known = jsonOfNode[node] {
      writer.append(bytes: known)
      return
    }
    let (stack, isFixed) = named(view.shared.segment.stack(ofNode: node), at: ticks)
    guard !stack.frames.isEmpty else { return }
    var part = ByteWriter(capacity: 4096)
    part.append(stack: stack)
    let json = part.take()
    writer.append(bytes: json)
    guard isFixed else { return }
    if jsonOfNode.count >= Self.stackLimit { jsonOfNode.removeAll(keepingCapacity: true) }
    jsonOfNode[node] = json
  }

  private mutating func named(_ stack: Stack, at ticks: UInt32) -> (NamedStack, isFixed: Bool) {
    var named = NamedStack(
      frames: [], interrupted: [], siteIndex: nil, truncation: stack.truncation,
      framesCut: stack.framesCut)
    var isFixed = true
    for (depth, pc) in stack.addresses.enumerated() {
      let isExact = stack.interrupted.contains(depth)
      let index = place(at: pc, isExact: isExact, ticks)
      isFixed = isFixed && places[index].isFixed
      if named.siteIndex == nil, let site = places[index].site { named.siteIndex = named.frames.count + site }
      named.frames += places[index].frames
      // What is inlined there was interrupted as a whole; the mark is at the function that has the frame.
      if isExact { named.interrupted.append(named.frames.count - 1) }
    }
    if named.siteIndex == nil, !named.frames.isEmpty { named.siteIndex = named.frames.count - 1 }
    return (named, isFixed)
  }

  // MARK: addresses

  /// Index in `places` of what is at `pc`; valid until the next call if it is not fixed.
  private mutating func place(at pc: UInt64, isExact: Bool, _ ticks: UInt32) -> Int {
    let address = Address(pc: pc, isExact: isExact)
    if let known = indexOfPlace[address] { return known }
    // The call instruction, one byte below, decides: a call may be the last instruction of its module.
    let instruction = isExact ? pc : pc &- 1
    let module = view.shared.segment.module(containing: instruction, at: ticks)
    var frames = [Frame(pc: pc, module: module?.path)]
    if let module {
      let found = view.symbolizer.frames(returnAddress: instruction &+ 1, in: ModuleReference(module))
      if !found.isEmpty { frames = found }
      if isExact { for index in frames.indices { frames[index].pc = pc } }
    }
    let holders = allModules().filter { $0.start <= instruction && instruction < $0.end }
    let isFixed = holders.count <= 1 && holders.first?.index == module?.index && module?.unloadTicks == nil
    let place = Place(
      frames: frames, site: frames.firstIndex { frame in frame.function.map { !wrappers.contains($0) } ?? true },
      module: module.map { $0.index + 1 } ?? 0, isFixed: isFixed)
    guard isFixed else {
      places[Self.scratch] = place
      return Self.scratch
    }
    places.append(place)
    indexOfPlace[address] = places.count - 1
    return places.count - 1
  }

  private mutating func allModules() -> [Module] {
    if let modules { return modules }
    let all = view.shared.segment.modules
    modules = all
    return all
  }
}
