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
    agentRecords = AddressRanges(
      view.shared.segment.mappingRecords.lazy.filter(\.isAgent).map { ($0.range.lowerBound, $0.range.upperBound) })
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
    var heaps: [Mapping] = []
    var heapSum = MemoryAccount.Sum()
    let (maps, sums) = Self.parse(text)
    for (mapping, sum) in zip(maps.mappings, sums) {
      let part = part(of: mapping)
      account.parts[part, default: MemoryAccount.Sum()].add(sum)
      if part == .heap {
        heaps.append(mapping)
        heapSum.add(sum)
      }
    }
    // The kernel makes one mapping of neighbours that several calls have mapped: what lies in the parts of calls that
    // no block ever came from is not an allocator's.
    let others = otherParts(of: heaps)
    for part in others {
      let taken = heapSum.take(pages(of: part, surroundings))
      account.parts[.anonymous, default: MemoryAccount.Sum()].add(taken)
    }
    if !heaps.isEmpty { account.parts[.heap] = heapSum }
    survey(heaps, surroundings)
    let held = account.heap.residentLive &+ account.heap.beside
    account.heap.free = heapSum.resident &- min(heapSum.resident, held)
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
    if mapping.permissions.hasSuffix("s") { return mapping.isFile ? .files : .shared }
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

  /// Goes through the pages of heaps and the blocks in them.
  private mutating func survey(_ heaps: [Mapping], _ surroundings: Surroundings) {
    let windowSize = MemoryAccount.pageSize << 16
    var meter = BudgetMeter(interval: 1)
    for mapping in heaps {
      var start = mapping.start
      while start < mapping.end, meter.goesOn() {
        let end = min(mapping.end, (Foreign(start) + windowSize).saturated())
        let count = Int(clamping: (end &- start) >> MemoryAccount.pageShift)
        let words: [UInt64]? =
          switch surroundings.directory {
          case .some(let directory): directory.pageWords(from: start, count: count)
          case .none: nil
          }
        survey(start..<max(start, end), words)
        start = end
      }
    }
  }

  private mutating func survey(_ range: Range<UInt64>, _ words: [UInt64]?) {
    guard !range.isEmpty else { return }
    if words != nil { account.heap.knowsPages = true }
    var window = PageWindow(range, words: words ?? [])
    let segment = view.shared
    // A block may begin below the window and reach into it: it was counted where it begins.
    if let before = segment.segment.allocation(containing: range.lowerBound), before.base < range.lowerBound {
      window.add(before)
    }
    var live = SiteTable.Total()
    let addresses = range.lowerBound...max(range.lowerBound, range.upperBound &- 1)
    segment.segment.forEachAllocation(in: addresses) { block in
      live.add(SiteTable.Total(bytes: block.size, blocks: 1))
      window.add(block)
    }
    window.finish()
    account.heap.live &+= live.bytes
    account.heap.blocks &+= live.blocks
    account.heap.residentLive &+= window.liveBytes
    let held = window.pageCount &* MemoryAccount.pageSize
    account.heap.beside &+= held &- min(held, window.liveBytes)
    for page in window.pinned { note(page) }
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
  }

  private static let contextLimit = 8

  private let range: Range<UInt64>
  private let words: [UInt64]
  private var current: Page?
  /// Resident pages that live blocks lie in.
  private(set) var pageCount: UInt64 = 0
  /// Bytes of live blocks in resident pages.
  private(set) var liveBytes: UInt64 = 0
  /// The pages that are pinned.
  private(set) var pinned: [Page] = []

  /// `words`: of /proc/PID/pagemap, for each page of `range`, which begins and ends with a page.
  init(_ range: Range<UInt64>, words: [UInt64]) { (self.range, self.words) = (range, words) }

  /// Bit 63 of a page's word says that the page is resident.
  private func isResident(_ page: UInt64) -> Bool {
    let index = Int(clamping: page &- range.lowerBound >> MemoryAccount.pageShift)
    return index < words.count && words[index] >> 63 == 1
  }

  mutating func add(_ block: Allocation) {
    let size = MemoryAccount.pageSize
    // A block of no bytes has its address.
    let (from, to) = (max(block.base, range.lowerBound), min(block.end, range.upperBound))
    guard from < to else { return }
    let first = from >> MemoryAccount.pageShift
    let end = (to &- 1) >> MemoryAccount.pageShift &+ 1
    for page in first..<max(first, end) where isResident(page) {
      if current?.number != page {
        finish()
        current = Page(number: page, ticks: block.ticks)
        pageCount &+= 1
      }
      let start = page &* size
      let bytes = min(min(to, start &+ size) &- max(from, start), block.size)
      liveBytes &+= bytes
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
    if let current, current.total.bytes <= MemoryAccount.pinnedBytes { pinned.append(current) }
    current = nil
  }
}
