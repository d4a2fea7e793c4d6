// SPDX-License-Identifier: Apache-2.0
// Where the resident memory of a live process goes: every mapping of the kernel's account (/proc/PID/smaps) falls into
// one row, so the rows add up to the kernel's sum. The memory of heaps is divided further, to the page, by the index
// and by /proc/PID/pagemap.
//
// The process runs on while its mappings, its pages and its blocks are read, one after the other. So a figure may be
// off by as much as the process allocated or gave back meanwhile. A part that would be less than nothing is told as
// nothing, and the row that holds the rest of its mapping makes the sum right.

import Bounds
import ByteText
import Glibc
import IndexReader
import Provenance
import Symbols
import SystemAccess

/// The resident memory of a process, by what it is for.
public struct MemoryAccount: Sendable {
  /// What memory is for. A mapping belongs to one of these.
  public enum Part: String, CaseIterable, Sendable {
    /// Mappings that hold blocks, or once did: the break, and anonymous memory of allocators.
    case heap
    case index, stacks, code, data, files, shared, anonymous, other

    /// The words of the table's row.
    var words: String {
      switch self {
      case .heap: "heap"
      case .index: "index and agent"
      case .stacks: "stacks of threads"
      case .code: "code of modules"
      case .data: "data of modules"
      case .files: "other files"
      case .shared: "shared memory"
      case .anonymous: "other anonymous memory"
      case .other: "kernel's own pages"
      }
    }
  }

  /// Bytes of memory, by the kernel's account.
  public struct Sum: Hashable, Sendable {
    /// Address space.
    public var size: UInt64 = 0
    public var resident: UInt64 = 0
    public var swapped: UInt64 = 0

    mutating func add(_ other: Sum) {
      size &+= other.size
      resident &+= other.resident
      swapped &+= other.swapped
    }

    /// Takes as much of `other` away as is here, and returns it.
    mutating func take(_ other: Sum) -> Sum {
      let taken = Sum(
        size: min(size, other.size), resident: min(resident, other.resident), swapped: min(swapped, other.swapped))
      size &-= taken.size
      resident &-= taken.resident
      swapped &-= taken.swapped
      return taken
    }
  }

  /// The resident memory of heaps: the three parts of it are all of it.
  public struct Heap: Hashable, Sendable {
    /// Bytes of live blocks as they were asked for, resident or not.
    public var live: UInt64 = 0
    public var blocks: UInt64 = 0
    /// Of these, in resident pages.
    public var residentLive: UInt64 = 0
    /// The rest of the pages in which live blocks lie: what allocators round up, their headers, and free pieces.
    public var beside: UInt64 = 0
    /// Of these, what allocators whose rule is known round live blocks up by.
    public var rounded: UInt64 = 0
    /// Resident pages in which no live block lies: free memory that allocators hold, and their own tables.
    public var free: UInt64 = 0
    /// Whether pages could be told apart: else `residentLive` and `beside` are 0.
    public var knowsPages = false
  }

  /// An allocation site whose blocks alone keep pages resident that they fill little of.
  public struct Pin: Hashable, Sendable {
    public var site: [Frame]
    public var function: ForeignText?
    /// The pages, each of `pageSize` bytes.
    public var pages: UInt64 = 0
    /// Live bytes and blocks in them.
    public var total = SiteTable.Total()
    /// Bytes of memory that go if these blocks go.
    public var bytes: UInt64 { pages &* MemoryAccount.pageSize }
  }

  /// A page has 2 to the power of this many bytes.
  static let pageShift: UInt64 = 12
  static let pageSize: UInt64 = 1 << pageShift
  /// A page is pinned if its live blocks have at most this many bytes of it.
  public static let pinnedBytes: UInt64 = 512

  public var processID: Int32
  public var command: [ForeignText]
  public var parts: [Part: Sum] = [:]
  public var heap = Heap()
  /// The same by allocator and arena: the sums of all are those of `heap`.
  public var allocators: [AllocatorPart] = []
  /// Resident pages that live blocks fill little of, by the site of all blocks in them; the most pages first.
  public var pins: [Pin] = []
  /// Such pages in which blocks of several sites lie.
  public var mixedPins = Pin(site: [])
  /// Bytes of page tables, which are not in the sum of resident memory; nil if not known.
  public var pageTables: UInt64?
  public var losses: Losses
  /// Whether the table of pinned pages was asked for.
  public var showsPins = false

  /// The sum of all rows: what the kernel says of the process.
  public var total: Sum {
    var total = Sum()
    for sum in parts.values { total.add(sum) }
    return total
  }
}

extension ProcessView {
  /// Where resident memory goes. Throws for an ended process, and where the caller may not read its account.
  public func memory(wrappers: Wrappers = .standard, pins: Bool = false) throws(Complaint) -> MemoryAccount {
    let inquiry = Inquiry(self, wrappers: wrappers)
    guard inquiry.surroundings.maps != nil else {
      throw Complaint(
        .noSuchProcess,
        what: "can't tell of the memory of process \(processID): it has ended, or runs another program now",
        advice: "`allocsctl top \(processID)` tells what lived")
    }
    var survey = MemorySurvey(self, inquiry)
    try survey.run(over: inquiry.surroundings)
    var account = survey.account
    account.showsPins = pins
    try Budget.current?.check()
    try checkIntact()
    return account
  }
}

/// One reading of all that an account is made of.
private struct MemorySurvey {
  private let view: ProcessView
  private let naming: StackNaming
  private(set) var account: MemoryAccount
  private let modules: [Module]
  private let moduleRanges: AddressRanges
  private let modulePaths: Set<ForeignText>
  private let stackRanges: AddressRanges
  private let agentRecords: AddressRanges

  private struct PinKey: Hashable {
    var site: Site.Key?
    var function: ForeignText
  }
  private var pins: [PinKey: MemoryAccount.Pin] = [:]
  /// The sites of contexts, looked up once.
  private var sites: [UInt32: PinKey] = [:]
  private let records: [MappingRecord]
  private var owners = HeapOwners()
  /// Allocators by the modules that have their code; nil where one module has several.
  private var allocatorOfModule: [ForeignText: Int?] = [:]
  /// glibc, if the process allocates from it.
  private var libc: Int?

  init(_ view: ProcessView, _ inquiry: borrowing Inquiry) {
    self.view = view
    naming = inquiry.attribution
    account = MemoryAccount(
      processID: view.processID, command: view.shared.segment.command,
      losses: view.losses(isWriting: inquiry.surroundings.isWriting, budget: nil))
    modules = view.shared.segment.modules.filter { $0.unloadTicks == nil }
    moduleRanges = AddressRanges(modules.lazy.map { ($0.start, $0.end) })
    modulePaths = Set(modules.map(\.path))
    stackRanges = AddressRanges(
      view.shared.segment.threads.lazy.map { thread in
        thread.state == .ended ? (0, 0) : thread.stack.map { ($0.lowerBound, $0.upperBound) } ?? (0, 0)
      })
    records = view.shared.segment.mappingRecords
    agentRecords = AddressRanges(
      records.lazy.filter(\.isAgent).map { ($0.range.lowerBound, $0.range.upperBound) })
    for allocator in view.shared.segment.allocators where allocator.kind == .primary {
      guard let name = Origin.name(of: allocator) else { continue }
      let index = owners.allocator(called: name, of: allocator.module?.path)
      if owners.isLibc(index) { libc = libc ?? index }
      guard let module = allocator.module?.path else { continue }
      // One allocator may have several entries.
      if let known = allocatorOfModule[module], known != index {
        allocatorOfModule[module] = .some(nil)
      } else {
        allocatorOfModule[module] = index
      }
    }
  }

  mutating func run(over surroundings: Surroundings) throws(Complaint) {
    let text: [UInt8]
    do throws(ProcError) {
      guard let found = try Self.read("smaps", surroundings) else { throw ProcError(number: ESRCH) }
      text = found
    } catch {
      throw Complaint(
        .obstacle,
        what: "cannot read the account of the memory of process \(view.processID): \(systemWords(error.number))",
        advice: error.isPermission ? "ask as the process's user or as root" : "ask again", code: error.number)
    }
    Budget.current?.spend(bytes: text.count)
    defer { Budget.current?.giveBack(bytes: text.count) }
    var heaps: [(mapping: Mapping, next: Mapping?, sum: MemoryAccount.Sum)] = []
    var heapSum = MemoryAccount.Sum()
    let (maps, sums) = Self.parse(text)
    for (index, (mapping, sum)) in zip(maps.mappings, sums).enumerated() {
      let part = part(of: mapping)
      account.parts[part, default: MemoryAccount.Sum()].add(sum)
      if part == .heap {
        heaps.append((mapping, index &+ 1 < maps.mappings.count ? maps.mappings[index &+ 1] : nil, sum))
        heapSum.add(sum)
      }
    }
    // The kernel makes one mapping of neighbours that several calls have mapped: what lies in the parts of calls that
    // no block ever came from is not an allocator's.
    let others = otherParts(of: heaps.map(\.mapping))
    var otherSums: [MemoryAccount.Sum] = []
    for part in others {
      let taken = heapSum.take(pages(of: part, surroundings))
      otherSums.append(taken)
      account.parts[.anonymous, default: MemoryAccount.Sum()].add(taken)
    }
    if !heaps.isEmpty { account.parts[.heap] = heapSum }
    let otherRanges = AddressRanges(others.lazy.map { ($0.lowerBound, $0.upperBound) })
    var rest = heapSum.resident
    for (mapping, next, sum) in heaps {
      var held: [Int: MemoryAccount.Holding] = [:]
      for piece in HeapPiece.pieces(of: mapping, before: next, records: records)
      where otherRanges.first(holding: piece.range.lowerBound) == nil {
        survey(piece, surroundings, into: &held)
      }
      guard account.heap.knowsPages else { continue }
      let first = others.partitioningIndex { $0.lowerBound >= mapping.start }
      let end = others.partitioningIndex { $0.lowerBound >= mapping.end }
      // bounded: both are indices or the count, in order
      let taken = otherSums[first..<max(first, end)].reduce(0) { $0 &+ $1.resident }
      let resident = min(rest, sum.resident &- min(sum.resident, taken))
      rest &-= resident
      owners.settle(held, resident: resident)
    }
    if account.heap.knowsPages, rest > 0 {
      let unknown = owners.owner(nil)
      owners.add(MemoryAccount.Holding(free: rest), to: unknown)
    }
    account.allocators = owners.parts
    for part in account.allocators { account.heap.add(part.holding) }
    let status = ((try? Self.read("status", surroundings)) ?? nil) ?? []
    account.pageTables = Self.kilobytes("VmPTE:", in: status)
    account.pins = pins.values.sorted { a, b in
      a.pages != b.pages ? a.pages > b.pages : (a.total.bytes, a.total.blocks) < (b.total.bytes, b.total.blocks)
    }
  }

  private static func read(_ name: String, _ surroundings: Surroundings) throws(ProcError) -> [UInt8]? {
    switch surroundings.directory {
    case .some(let directory): try directory.read(name)
    case .none: nil
    }
  }

  // MARK: mappings

  /// The mappings in the text of smaps, and the kernel's sums of each.
  static func parse(_ text: [UInt8]) -> (ProcessMaps, [MemoryAccount.Sum]) {
    var heads: [UInt8] = []
    var sums: [MemoryAccount.Sum] = []
    var meter = BudgetMeter(interval: 256)
    var rest = text[...]
    while !rest.isEmpty, meter.goesOn() {
      let line = rest.prefix { $0 != UInt8(ascii: "\n") }
      rest = rest[min(rest.endIndex, line.endIndex &+ 1)...]
      // A head begins with the bounds of the mapping, other lines with a capital letter.
      if let first = line.first, first >= UInt8(ascii: "A"), first <= UInt8(ascii: "Z") {
        guard !sums.isEmpty else { continue }
        let last = sums.count &- 1
        if let bytes = kilobytes("Rss:", of: line) { sums[last].resident = bytes }
        if let bytes = kilobytes("Swap:", of: line) { sums[last].swapped = bytes }
        if let bytes = kilobytes("Size:", of: line) { sums[last].size = bytes }
      } else if ProcessMaps(text: Array(line)).mappings.count == 1 {
        heads += line
        heads.append(UInt8(ascii: "\n"))
        sums.append(MemoryAccount.Sum())
      }
    }
    return (ProcessMaps(text: heads), sums)
  }

  /// The bytes in a line such as `Rss:       12 kB`; nil for other lines.
  private static func kilobytes(_ name: String, of line: ArraySlice<UInt8>) -> UInt64? {
    guard line.starts(with: name.utf8) else { return nil }
    let digits = line.dropFirst(name.utf8.count).filter { $0 &- UInt8(ascii: "0") < 10 }
    return (Foreign(UInt64(String(decoding: digits, as: UTF8.self)) ?? 0) * 1024).saturated()
  }

  static func kilobytes(_ name: String, in text: [UInt8]) -> UInt64? {
    text.split(separator: UInt8(ascii: "\n")).lazy.compactMap { kilobytes(name, of: $0) }.first
  }

  private func part(of mapping: Mapping) -> MemoryAccount.Part {
    if mapping.isSegment(of: view) || agentRecords.first(holding: mapping.start) != nil { return .index }
    if mapping.isMainStack { return .stacks }
    if mapping.isBreak { return .heap }
    if let module = moduleRanges.first(holding: mapping.start) {
      if modules[module].isAgent { return .index }
      return mapping.permissions.contains("x") ? .code : .data
    }
    if let path = mapping.path, path.hasPrefix("["), !mapping.isAnonymous { return .other }
    if mapping.permissions.hasSuffix("s") { return mapping.isFile && !mapping.isMemory ? .files : .shared }
    if mapping.isFile {
      guard let path = mapping.path, modulePaths.contains(path) else { return .files }
      return mapping.permissions.contains("x") ? .code : .data
    }
    // A thread's stack begins above its guard page, within the bounds of its mapping.
    if mapping.end > mapping.start, stackRanges.first(holding: mapping.end &- 1) != nil { return .stacks }
    return view.shared.segment.wasHeap(in: mapping.range) ? .heap : .anonymous
  }

  // MARK: pages

  /// The parts of `heaps` that calls have mapped of which no block was ever made.
  private func otherParts(of heaps: [Mapping]) -> [Range<UInt64>] {
    let starts = heaps.map(\.start)
    var parts: [Range<UInt64>] = []
    var meter = BudgetMeter(interval: 64)
    for record in view.shared.segment.mappingRecords where !record.isBreak && record.isAnonymous {
      guard meter.goesOn() else { break }
      let place = starts.partitioningIndex { $0 > record.range.lowerBound }
      guard place > 0 else { continue }
      let heap = heaps[place &- 1]
      guard !heap.isBreak, record.range.lowerBound < heap.end else { continue }
      let range = record.range.clamped(to: heap.range)
      if !range.isEmpty, !view.shared.segment.wasHeap(in: range) { parts.append(range) }
    }
    return parts
  }

  /// The pages of a part of a mapping, as /proc/PID/pagemap has them: bit 63 says resident, bit 62 swapped out.
  private func pages(of range: Range<UInt64>, _ surroundings: Surroundings) -> MemoryAccount.Sum {
    var sum = MemoryAccount.Sum()
    sum.size = range.upperBound &- range.lowerBound
    var start = range.lowerBound
    var meter = BudgetMeter(interval: 1)
    while start < range.upperBound, meter.goesOn() {
      let count = Int(clamping: min(range.upperBound &- start, MemoryAccount.pageSize << 16) >> MemoryAccount.pageShift)
      let words: [UInt64]? =
        switch surroundings.directory {
        case .some(let directory): directory.pageWords(from: start, count: count)
        case .none: nil
        }
      guard let words, count > 0 else { break }
      for word in words {
        if word >> 63 == 1 { sum.resident &+= MemoryAccount.pageSize }
        if word >> 62 & 1 == 1 { sum.swapped &+= MemoryAccount.pageSize }
      }
      start = (Foreign(start) + MemoryAccount.pageSize << 16).saturated()
    }
    return sum
  }

  /// Goes through the pages of a piece of a heap, and the blocks in them. What owners hold of its resident memory is
  /// added to `held`.
  private mutating func survey(
    _ piece: HeapPiece, _ surroundings: Surroundings, into held: inout [Int: MemoryAccount.Holding]
  ) {
    let windowSize = MemoryAccount.pageSize << 16
    var meter = BudgetMeter(interval: 1)
    var start = piece.range.lowerBound
    var pieceOwners = PieceOwners()
    /// The owner of the last page with a live block, and resident pages below the first.
    var last: Int?
    var leading: UInt64 = 0
    while start < piece.range.upperBound, meter.goesOn() {
      let end = min(piece.range.upperBound, (Foreign(start) + windowSize).saturated())
      let count = Int(clamping: (end &- start) >> MemoryAccount.pageShift)
      let words: [UInt64]? =
        switch surroundings.directory {
        case .some(let directory): directory.pageWords(from: start, count: count)
        case .none: nil
        }
      if words != nil { account.heap.knowsPages = true }
      var window = PageWindow(start..<max(start, end), words: words ?? [], owner: last)
      let live = survey(&window, of: piece, &pieceOwners)
      for (number, holding) in zip(pieceOwners.numbers, live) { owners.add(holding, to: number) }
      for (number, holding) in zip(pieceOwners.numbers, window.holdings) {
        held[number, default: MemoryAccount.Holding()].add(holding)
      }
      for page in window.pinned { note(page) }
      last = window.owner
      leading &+= window.leading
      start = end
    }
    guard leading > 0 else { return }
    let owner = last.map { pieceOwners.numbers[$0] } ?? emptyOwner(of: piece)
    held[owner, default: MemoryAccount.Holding()].free &+= leading &* MemoryAccount.pageSize
  }

  /// Who holds a piece in which no block lives.
  private mutating func emptyOwner(of piece: HeapPiece) -> Int {
    if let libc, piece.shape == .heap { return owners.owner(libc, .thread, start: piece.range.lowerBound) }
    if let libc, piece.shape == .programBreak, !records.contains(where: { $0.isBreak }) {
      return owners.owner(libc, .main, start: piece.range.lowerBound)
    }
    guard let origin = view.tables.context(piece.context), let call = view.tables.node(origin.node),
      let module = moduleRanges.first(holding: call.pc), let allocator = allocatorOfModule[modules[module].path]
    else { return owners.owner(nil) }
    return owners.owner(allocator)
  }

  /// Lets the blocks of a window's range come by. Returns what lives in it, by the piece's owners.
  private mutating func survey(
    _ window: inout PageWindow, of piece: HeapPiece, _ pieceOwners: inout PieceOwners
  ) -> [MemoryAccount.Holding] {
    let range = window.range
    guard !range.isEmpty else { return [] }
    let segment = view.shared
    let tables = view.tables
    var owners = self.owners
    self.owners = HeapOwners()
    defer { self.owners = owners }
    /// The owner of blocks of the context that came by last. Contexts may take turns, block by block; their allocator
    /// is nearly always the same.
    var memo: (context: UInt32, allocator: Int?, kind: MemoryAccount.Arena.Kind, owner: Int, isLibc: Bool)?
    func whose(_ block: Allocation) -> (owner: Int, rounded: UInt64) {
      let (kind, start) = piece.arena(of: block)
      if memo?.context != block.context || memo?.kind != kind {
        let allocator = owners.allocator(ofContext: block.context, in: tables)
        if let known = memo, known.allocator == allocator, known.kind == kind {
          memo?.context = block.context
        } else {
          let isLibc = allocator.map { owners.isLibc($0) } ?? false
          let number = isLibc ? owners.owner(allocator, kind, start: start) : owners.owner(allocator)
          memo = (block.context, allocator, kind, pieceOwners.index(ofOwner: number), isLibc)
        }
      }
      guard let memo else { return (0, 0) }
      return (memo.owner, memo.isLibc ? HeapPiece.libcRounding(of: block, kind) : 0)
    }
    // A block may begin below the window and reach into it: it was counted where it begins.
    if let before = segment.segment.allocation(containing: range.lowerBound), before.base < range.lowerBound {
      let (owner, rounded) = whose(before)
      window.add(before, owner: owner, rounded: rounded)
    }
    var live: [MemoryAccount.Holding] = []
    let addresses = range.lowerBound...max(range.lowerBound, range.upperBound &- 1)
    segment.segment.forEachAllocation(in: addresses) { block in
      let (owner, rounded) = whose(block)
      while live.count <= owner { live.append(MemoryAccount.Holding()) }  // bounded: owners of a piece are few
      live[owner].live &+= block.size
      live[owner].blocks &+= 1
      window.add(block, owner: owner, rounded: rounded)
    }
    window.end()
    return live
  }

  private mutating func note(_ page: PageWindow.Page) {
    let keys = Set(page.contexts.map { key(ofContext: $0, at: page.ticks) })
    guard page.hasAllContexts, keys.count == 1, let key = keys.first, let context = page.contexts.first else {
      account.mixedPins.pages &+= 1
      account.mixedPins.total.add(page.total)
      return
    }
    if pins[key] == nil {
      let node = view.tables.context(context)?.node ?? 0
      pins[key] = MemoryAccount.Pin(
        site: naming.site(ofNode: node, at: page.ticks)?.frames ?? [],
        function: key.function.isEmpty ? nil : key.function)
    }
    pins[key]?.pages &+= 1
    pins[key]?.total.add(page.total)
  }

  private mutating func key(ofContext id: UInt32, at ticks: UInt32) -> PinKey {
    if let known = sites[id] { return known }
    let origin = view.tables.context(id)
    let key = PinKey(site: naming.siteKey(ofNode: origin?.node ?? 0, at: ticks), function: origin?.function ?? "")
    sites[id] = key
    return key
  }
}

extension MemoryAccount.Heap {
  mutating func add(_ holding: MemoryAccount.Holding) {
    live &+= holding.live
    blocks &+= holding.blocks
    residentLive &+= holding.residentLive
    beside &+= holding.rounded &+ holding.gaps
    rounded &+= holding.rounded
    free &+= holding.free
  }
}

/// The pages of a piece of a heap, while its blocks come by in order of address.
struct PageWindow {
  /// A resident page that live blocks lie in.
  struct Page: Equatable {
    var number: UInt64
    /// The bytes of live blocks in it, and how many blocks reach into it.
    var total = SiteTable.Total()
    /// The contexts of its blocks, as many as are kept.
    var contexts: [UInt32] = []
    var hasAllContexts = true
    /// The time of one of the blocks.
    var ticks: UInt32
    /// Whose the first block is.
    var owner = 0
    /// Bytes that allocators round the blocks up by.
    var rounded: UInt64 = 0
  }

  private static let contextLimit = 8

  let range: Range<UInt64>
  private let words: [UInt64]
  private var current: Page?
  /// Index of the first page of which nothing is known yet.
  private var next = 0
  /// Resident pages below the first page with a live block, where no owner is known from before.
  private(set) var leading: UInt64 = 0
  /// Whose the last page with a live block is.
  private(set) var owner: Int?
  /// What each owner holds of the resident pages, but `leading`.
  private(set) var holdings: [MemoryAccount.Holding] = []
  /// The pages that are pinned.
  private(set) var pinned: [Page] = []

  /// `words`: of /proc/PID/pagemap, for each page of `range`, which begins and ends with a page. `owner`: whose the
  /// nearest page below is.
  init(_ range: Range<UInt64>, words: [UInt64], owner: Int? = nil) {
    (self.range, self.words, self.owner) = (range, words, owner)
  }

  /// Takes the pages from `next` on, below the one at `index`, for those without a live block.
  private mutating func skip(to index: Int) {
    var free: UInt64 = 0
    for place in next..<max(next, min(index, words.count)) where words[place] >> 63 == 1 { free &+= 1 }
    next = max(next, index)
    guard free > 0 else { return }
    guard let owner else {
      leading &+= free
      return
    }
    hold(owner) { $0.free &+= free &* MemoryAccount.pageSize }
  }

  private mutating func hold(_ owner: Int, _ change: (inout MemoryAccount.Holding) -> Void) {
    while holdings.count <= owner { holdings.append(MemoryAccount.Holding()) }  // bounded: owners of a piece are few
    change(&holdings[owner])
  }

  /// Bit 63 of a page's word says that the page is resident.
  private func isResident(_ page: UInt64) -> Bool {
    let index = Int(clamping: page &- range.lowerBound >> MemoryAccount.pageShift)
    return index < words.count && words[index] >> 63 == 1
  }

  /// `owner`: whose the block is. `rounded`: by how many bytes it is rounded up.
  mutating func add(_ block: Allocation, owner: Int = 0, rounded: UInt64 = 0) {
    let size = MemoryAccount.pageSize
    // A block of no bytes has its address.
    let (from, to) = (max(block.base, range.lowerBound), min(block.end, range.upperBound))
    guard from < to else { return }
    let first = from >> MemoryAccount.pageShift
    let end = (to &- 1) >> MemoryAccount.pageShift &+ 1
    for page in first..<max(first, end) where isResident(page) {
      if current?.number != page {
        finish()
        let index = Int(clamping: page &- range.lowerBound >> MemoryAccount.pageShift)
        skip(to: index)
        next = index &+ 1
        self.owner = owner
        current = Page(number: page, ticks: block.ticks, owner: owner)
      }
      let start = page &* size
      let bytes = min(min(to, start &+ size) &- max(from, start), block.size)
      // What a block is rounded up by lies behind it, as far as its last page goes.
      if page &+ 1 == end, to == block.end {
        let behind = block.base &+ block.size
        current?.rounded &+= min(rounded, start &+ size &- min(start &+ size, behind))
      }
      current?.total.add(SiteTable.Total(bytes: bytes, blocks: 1))
      guard let contexts = current?.contexts, !contexts.contains(block.context) else { continue }
      if contexts.count < Self.contextLimit {
        current?.contexts.append(block.context)
      } else {
        current?.hasAllContexts = false
      }
    }
  }

  /// No further block lies in the last page.
  mutating func finish() {
    guard let page = current else { return }
    if page.total.bytes <= MemoryAccount.pinnedBytes { pinned.append(page) }
    current = nil
    // Blocks of a damaged index may lie upon each other.
    let live = min(MemoryAccount.pageSize, page.total.bytes)
    let rounded = min(MemoryAccount.pageSize &- live, page.rounded)
    hold(page.owner) { holding in
      holding.residentLive &+= live
      holding.rounded &+= rounded
      holding.gaps &+= MemoryAccount.pageSize &- live &- rounded
    }
  }

  /// No further block lies in the window.
  mutating func end() {
    finish()
    skip(to: words.count)
  }
}
