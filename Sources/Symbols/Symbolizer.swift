// SPDX-License-Identifier: Apache-2.0
// From an address in a process to the names that its source has for it.
//
// Two levels of cache are under one short lock: modules by the proof of their identity, so that processes that map one
// file share its symbols; and answers by (module, address in the file). Work on a module's files happens outside that
// lock, behind the module's own.

import Bounds
import ByteText
import Glibc
import Synchronization

/// Finds functions, source lines and static symbols of modules that are or were loaded in some process.
///
/// It needs only the modules' files, not the process. Names are demangled. A module whose file is missing, or was
/// replaced by another build since it was loaded, gives frames with a pc and a module only, and no static symbols.
///
/// Thread-safe. Memory is bounded by the limits given at the start.
public final class Symbolizer: Sendable {
  /// The memory that a symbolizer may take.
  public struct Limits: Sendable {
    /// Modules whose files are held at once.
    public var modules: Int
    /// Bytes of symbols and debug information. One module may exceed it by itself.
    public var moduleBytes: Int
    /// Of these, bytes of tables that are made of the files: what exceeds it is made anew for each question.
    public var madeBytes: Int
    /// Bytes of answers.
    public var answerBytes: Int

    public init(
      modules: Int = 256, moduleBytes: Int = 512 << 20, madeBytes: Int = 128 << 20, answerBytes: Int = 64 << 20
    ) {
      self.modules = modules
      self.madeBytes = madeBytes
      self.moduleBytes = moduleBytes
      self.answerBytes = answerBytes
    }
  }

  private struct ModuleKey: Hashable {
    var path: ForeignText
    var buildID: [UInt8]
    /// Of the mapping, relative to the bias.
    var start: UInt64
    var end: UInt64
    /// The proof in place of a build id, for a module that has none.
    var file: FileState?
    var noted: UInt64

    init(_ module: ModuleReference) {
      path = module.path
      buildID = module.buildID
      file = buildID.isEmpty ? module.file : nil
      noted = buildID.isEmpty && file == nil ? module.notedNanoseconds : 0
      start = module.start &- module.bias
      end = module.end &- module.bias
    }

    func hash(into hasher: inout Hasher) {
      if buildID.isEmpty { hasher.combine(path) } else { hasher.combine(buildID) }
    }
  }

  private struct AnswerKey: Hashable {
    var module: UInt32
    var address: UInt64
  }

  private struct Entry {
    var module: LoadedModule
    var lastUse: UInt64
    /// Monotonic seconds at which a module without a file is looked for again.
    var retryAt: Int
    /// The processes by which it was looked for since.
    var processes: Set<ModuleReference.Process>
  }

  private struct Tables {
    var modules: [ModuleKey: Entry] = [:]
    var uses: UInt64 = 0
    var nextID: UInt32 = 0
    var frames: GenerationCache<AnswerKey, [Frame]>
    var symbols: GenerationCache<AnswerKey, StaticSymbol?>
    var variables: GenerationCache<AnswerKey, Variable?>
  }

  /// Seconds after which a file that was missing is looked for again: a debug package may have been installed.
  public static let retryInterval = 10
  /// Processes by which a module that has no file is looked for in that time, of which it is known that they don't
  /// help.
  private static let mostProcesses = 1024

  /// Files that are kept for the time after their process.
  public let heldFiles: HeldFiles

  private let limits: Limits
  private let search: DebugFileSearch
  private let share: MemoryShare
  private let tables: Mutex<Tables>

  /// `debugRoots`: directories laid out like /usr/lib/debug, where separate debug files are looked for.
  public init(
    debugRoots: [String] = ["/usr/lib/debug"], limits: Limits = Limits(), heldFiles: HeldFiles = HeldFiles()
  ) {
    self.limits = limits
    self.heldFiles = heldFiles
    search = DebugFileSearch(roots: debugRoots, held: heldFiles)
    // What is held between questions, and one module of the largest size.
    share = MemoryShare(limit: limits.moduleBytes &+ Int(clamping: DebugInformation.largest))
    tables = Mutex(
      Tables(
        frames: GenerationCache(budget: limits.answerBytes / 4 * 3, cost: Self.cost),
        symbols: GenerationCache(budget: limits.answerBytes / 8) { 64 &+ ($0?.name.byteCount ?? 0) },
        variables: GenerationCache(budget: limits.answerBytes / 8) { variable in
          256 &+ (variable?.path.byteCount ?? 0) &+ (variable?.type?.byteCount ?? 0)
            &+ (variable?.file?.byteCount ?? 0)
            &+ (variable?.alternatives.reduce(0) { $0 &+ $1.byteCount } ?? 0)
        }))
  }

  /// The functions that a return address leads back into, innermost inlined one first; at least one frame.
  ///
  /// The call before the address is what is looked up: a call may be a function's last instruction. Every frame's
  /// `pc` is `returnAddress` itself.
  public func frames(returnAddress: UInt64, in module: ModuleReference) -> [Frame] {
    lookup(returnAddress: returnAddress, in: module).frames
  }

  /// As `frames`, and whether that is all there will be: false if there was no file of the module, which is looked for
  /// again after `retryInterval`.
  public func lookup(
    returnAddress: UInt64, in module: ModuleReference
  ) -> (frames: [Frame], isFinal: Bool) {
    let address = returnAddress &- 1 &- module.bias
    let place = Frame.FilePlace(address: address, buildID: module.buildID)
    let bare = { (loss: NameLoss?) in
      [Frame(pc: returnAddress, module: module.path, place: place, unnamed: loss)]
    }
    guard returnAddress > module.start, returnAddress <= module.end else { return (bare(nil), true) }
    let key = ModuleKey(module)
    let (loaded, cached) = tables.withLock { tables in
      let loaded = find(key, module, &tables)
      return (loaded, tables.frames.find(AnswerKey(module: loaded.id, address: address)))
    }
    if let cached {
      // Another process may have the file elsewhere in its memory.
      return (cached[0].pc == returnAddress ? cached : cached.map { $0.moved(to: returnAddress) }, true)
    }
    let found = loaded.frames(at: address).map { frame in
      var frame = frame.moved(to: returnAddress)
      if frame.function == nil { frame.place = place }
      return frame
    }
    let frames = found.isEmpty ? bare(loaded.loss) : found
    tables.withLock { tables in
      if loaded.isFinal { tables.frames.store(AnswerKey(module: loaded.id, address: address), frames) }
      evict(keeping: key, &tables)
    }
    return (frames, loaded.isFinal)
  }

  /// Why nothing of the module has a name; nil if its file was found, or nothing was looked up in it yet.
  public func loss(of module: ModuleReference) -> NameLoss? {
    let loaded = tables.withLock { $0.modules[ModuleKey(module)]?.module }
    return loaded?.loss
  }

  /// The variable or function that holds `address`; nil if the symbol table knows of none.
  public func staticSymbol(at address: UInt64, in module: ModuleReference) -> StaticSymbol? {
    guard address >= module.start, address < module.end else { return nil }
    let fileAddress = address &- module.bias
    let key = ModuleKey(module)
    let (loaded, cached) = tables.withLock { tables in
      let loaded = find(key, module, &tables)
      return (loaded, tables.symbols.find(AnswerKey(module: loaded.id, address: fileAddress)))
    }
    if let cached { return cached }
    let symbol = loaded.symbol(at: fileAddress)
    tables.withLock { tables in
      if loaded.isFinal { tables.symbols.store(AnswerKey(module: loaded.id, address: fileAddress), symbol) }
      evict(keeping: key, &tables)
    }
    return symbol
  }

  /// The variable that holds `address`, down to its member, by the module's debug information; nil if that knows none.
  /// The first question about a module takes as long as it takes to read its debug information: milliseconds to
  /// seconds.
  public func variable(at address: UInt64, in module: ModuleReference) -> Variable? {
    guard address >= module.start, address < module.end else { return nil }
    return variable(at: address &- module.bias, isThreadLocal: false, in: module)
  }

  /// Why the module's debug information names fewer variables than it could, as of the last look-up; nil if nothing is
  /// in the way.
  public func variableProblem(in module: ModuleReference) -> ForeignText? {
    tables.withLock { find(ModuleKey(module), module, &$0) }.variableProblem()
  }

  /// The thread-local variable at `offset` bytes in the module's block of them.
  public func threadLocalVariable(atOffset offset: UInt64, in module: ModuleReference) -> Variable? {
    variable(at: offset, isThreadLocal: true, in: module)
  }

  private func variable(at place: UInt64, isThreadLocal: Bool, in module: ModuleReference) -> Variable? {
    let key = ModuleKey(module)
    // Addresses in a file are below the other half.
    let cacheAddress = isThreadLocal ? place | 1 << 63 : place
    let (loaded, cached) = tables.withLock { tables in
      let loaded = find(key, module, &tables)
      return (loaded, tables.variables.find(AnswerKey(module: loaded.id, address: cacheAddress)))
    }
    if let cached { return cached }
    let variable = loaded.variable(at: place, isThreadLocal: isThreadLocal)
    tables.withLock { tables in
      if loaded.isFinal { tables.variables.store(AnswerKey(module: loaded.id, address: cacheAddress), variable) }
      evict(keeping: key, &tables)
    }
    return variable
  }

  /// The variable or parameter that holds `memory` in a frame of the function that executes the instruction at
  /// `address`.
  public func local(
    at memory: UInt64, executing address: UInt64, _ registers: FrameRegisters, in module: ModuleReference
  ) -> Variable? {
    let key = ModuleKey(module)
    let loaded = tables.withLock { find(key, module, &$0) }
    let variable = loaded.local(at: memory, executing: address &- module.bias, registers)
    tables.withLock { evict(keeping: key, &$0) }
    return variable
  }

  /// The symbol of the thread-local variable at `offset` bytes in the module's block of them.
  public func threadLocalSymbol(atOffset offset: UInt64, in module: ModuleReference) -> StaticSymbol? {
    let key = ModuleKey(module)
    let loaded = tables.withLock { find(key, module, &$0) }
    let symbol = loaded.threadLocalSymbol(at: offset)
    tables.withLock { evict(keeping: key, &$0) }
    return symbol
  }

  // MARK: modules

  private func find(_ key: ModuleKey, _ reference: ModuleReference, _ tables: inout Tables) -> LoadedModule {
    tables.uses &+= 1
    var processes = Set([reference.process].compactMap { $0 })
    if let index = tables.modules.index(forKey: key) {
      let entry = tables.modules.values[index]
      // By another process the file may be found.
      let isAnotherWay = reference.process.map { !entry.processes.contains($0) } ?? false
      let isEarly = Self.monotonicSeconds() < entry.retryAt
      if entry.module.hasFile || isEarly && !isAnotherWay {
        tables.modules.values[index].lastUse = tables.uses
        return entry.module
      }
      if isEarly, entry.processes.count < Self.mostProcesses { processes.formUnion(entry.processes) }
    }
    let module = LoadedModule(id: tables.nextID, reference: reference, search: search, share: share)
    tables.nextID &+= 1
    tables.modules[key] = Entry(
      module: module, lastUse: tables.uses, retryAt: Self.monotonicSeconds() &+ Self.retryInterval,
      processes: processes)
    return module
  }

  /// Lets go of the modules that were not used for longest, until the limits are kept.
  private func evict(keeping key: ModuleKey, _ tables: inout Tables) {
    var sum = tables.modules.values.reduce(0) { $0 &+ $1.module.cost }
    var made = tables.modules.values.reduce(0) { $0 &+ $1.module.madeCost }
    while tables.modules.count > limits.modules || sum > limits.moduleBytes || made > limits.madeBytes {
      let others = tables.modules.filter { $0.key != key || $0.value.module.madeCost > limits.madeBytes }
      guard let oldest = others.min(by: { $0.value.lastUse < $1.value.lastUse }) else { return }
      sum &-= oldest.value.module.cost
      made &-= oldest.value.module.madeCost
      tables.modules[oldest.key] = nil
    }
  }

  /// The clock that `retryInterval` counts on.
  public static func monotonicSeconds() -> Int {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC_COARSE, &time)
    return time.tv_sec
  }

  private static func cost(_ frames: [Frame]) -> Int {
    frames.reduce(32) { $0 &+ $1.cost }
  }
}

extension Frame {
  fileprivate func moved(to pc: UInt64) -> Frame {
    var frame = self
    frame.pc = pc
    return frame
  }
}
