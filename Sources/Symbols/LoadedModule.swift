// SPDX-License-Identifier: Apache-2.0
// The files of one module, opened when they are first needed, behind one lock.
//
// A question whose budget ends while files are opened leaves them unopened, and what it found is not kept.

import Bounds
import ByteText
import Synchronization

/// Thread-safe: look-ups in one module wait for each other, look-ups in different modules don't.
final class LoadedModule: Sendable {
  private struct Files: ~Copyable {
    var isOpen = false
    /// Why there is no file; nil if there is one.
    var loss: NameLoss?
    var module: ObjectFile?
    var debug: ObjectFile?
    /// The symbols of a file without others, which it carries packed.
    var mini: ObjectFile?
    /// Why less is known than the files could tell; nil if nothing is in the way.
    var problem: String?
    var symbols = SymbolTable(files: [])
    var isDebugInformationOpen = false
    /// Whether the debug information has where variables are in frames.
    var hasLocations = false
    var debugInformation: DebugInformation?
    var debugInformationCost = 0
    /// Of that, what was made of its sections.
    var debugInformationMade = 0
    /// Bytes of the share that its debug information took.
    var taken = 0
  }

  /// Distinguishes this object from all that its symbolizer had before.
  let id: UInt32
  private let reference: ModuleReference
  private let search: DebugFileSearch
  private let share: MemoryShare
  private let files = Mutex(Files())
  private let bytes = Atomic<Int>(0)
  private let madeBytes = Atomic<Int>(0)
  private let found = Atomic<Bool>(false)
  private let waits = Atomic<Bool>(false)

  init(id: UInt32, reference: ModuleReference, search: DebugFileSearch, share: MemoryShare) {
    self.share = share
    self.id = id
    self.reference = reference
    self.search = search
  }

  deinit {
    let share = share
    files.withLock { share.giveBack($0.taken) }
  }

  /// Bytes of memory that are held, about.
  var cost: Int { bytes.load(ordering: .relaxed) }
  /// Of these, what was made of the files, and isn't pages of theirs.
  var madeCost: Int { madeBytes.load(ordering: .relaxed) }
  /// Whether there was any file, as of the last look-up.
  var hasFile: Bool { found.load(ordering: .relaxed) }
  /// Whether answers are all that there will be, as of the last look-up: not where the question's time was over, or
  /// there was no memory left for the debug information.
  var isFinal: Bool { hasFile && !waits.load(ordering: .relaxed) && !Budget.hasEnded }
  /// Why there was none, as of the last look-up; nil if there was one.
  var loss: NameLoss? { files.withLock { $0.loss } }

  /// The functions at `address` (of the ELF file), with the pc 0. Empty if nothing is known.
  func frames(at address: UInt64) -> [Frame] {
    files.withLock { files in
      guard open(&files) else { return [] }
      guard files.module != nil || files.debug != nil else { return [] }
      openDebugInformation(&files)
      let symbol = files.symbols.symbol(at: address)
      let inner = files.debugInformation?.frames(at: address) ?? []
      let problem = files.debugInformation?.problem(at: address) ?? files.problem
      files.debugInformationCost = files.debugInformation?.cost ?? 0
      files.debugInformationMade = files.debugInformation?.madeCost ?? 0
      account(files)
      if inner.isEmpty {
        guard symbol != nil || problem != nil else { return [] }
        return [
          Frame(
            pc: 0, module: reference.path, function: symbol.map { ForeignText(symbolName($0.name)) },
            problem: problem.map { ForeignText($0) })
        ]
      }
      return inner.map { frame in
        let function = functionName(frame, symbol: symbol?.name).map { ForeignText($0) }
        return Frame(
          pc: 0, module: reference.path, function: function, file: frame.location.file, line: frame.location.line,
          inlined: frame.inlined, problem: problem.map { ForeignText($0) })
      }
    }
  }

  /// The symbol that holds `address` (of the ELF file).
  func symbol(at address: UInt64) -> StaticSymbol? {
    files.withLock { files in
      guard open(&files), let symbol = files.symbols.symbol(at: address) else { return nil }
      return StaticSymbol(
        name: ForeignText(symbolName(symbol.name)), offset: address &- symbol.start, size: symbol.size,
        section: files.symbols.section(at: address))
    }
  }

  /// The variable that holds `address`, of the ELF file or an offset in the thread-local storage.
  func variable(at address: UInt64, isThreadLocal: Bool) -> Variable? {
    files.withLock { files in
      guard open(&files) else { return nil }
      openDebugInformation(&files)
      var variable = files.debugInformation?.variable(at: address, plus: 0, isThreadLocal: isThreadLocal)
      if let symbol = isThreadLocal ? nil : files.symbols.symbol(at: address) {
        // The elements that an initializer gave a structure's open array lie behind the structure: only the symbol's
        // size counts them.
        if variable == nil, symbol.start < address {
          variable = files.debugInformation?.variable(
            at: symbol.start, plus: address &- symbol.start, isThreadLocal: false)
        }
        variable?.qualify(by: symbolName(symbol.name))
      }
      files.debugInformationCost = files.debugInformation?.cost ?? 0
      files.debugInformationMade = files.debugInformation?.madeCost ?? 0
      account(files)
      return variable
    }
  }

  /// Why less is known of variables than the files could tell; nil if nothing is in the way. As of the last look-up.
  func variableProblem() -> ForeignText? {
    files.withLock { $0.debugInformation?.problem ?? $0.problem }.map { ForeignText($0) }
  }

  /// The variable that holds `memory` in the frame of the function at `address` (of the ELF file).
  func local(at memory: UInt64, executing address: UInt64, _ registers: FrameRegisters) -> Variable? {
    files.withLock { files in
      if !files.hasLocations {
        // Hardly anybody asks for these: the files are opened anew, to be read with them.
        share.giveBack(files.taken)
        files = Files()
        files.hasLocations = true
      }
      guard open(&files) else { return nil }
      openDebugInformation(&files)
      let variable = files.debugInformation?.local(at: memory, executing: address, registers)
      files.debugInformationCost = files.debugInformation?.cost ?? 0
      files.debugInformationMade = files.debugInformation?.madeCost ?? 0
      account(files)
      return variable
    }
  }

  /// The symbol of a thread-local variable at an offset in the module's thread-local storage.
  func threadLocalSymbol(at offset: UInt64) -> StaticSymbol? {
    files.withLock { files in
      guard open(&files), let symbol = files.symbols.threadLocalSymbol(at: offset) else { return nil }
      return StaticSymbol(
        name: ForeignText(symbolName(symbol.name)), offset: offset &- symbol.start, size: symbol.size,
        section: symbol.isZeroed ? ".tbss" : ".tdata")
    }
  }

  /// Returns whether the files are open: they are not if the question's budget has ended.
  private func open(_ files: inout Files) -> Bool {
    if Budget.hasEnded { return false }
    if files.isOpen { return true }
    files.isOpen = true
    switch search.moduleFile(reference) {
    case .success(let file): files.module = file
    case .failure(let loss): files.loss = loss
    }
    // A file with both needs no other.
    let isComplete = files.module.map { file in
      DebugInformation.isPresent(in: file) && file.section(named: ".symtab") != nil
    }
    if isComplete != true { files.debug = search.debugFile(reference, file: files.module) }
    // A file without a build id is known by its time of change: bytes that were read while the time changed may be of
    // another build.
    if reference.buildID.isEmpty, files.module?.isUnchanged == false {
      (files.module, files.debug, files.loss) = (nil, nil, .changed)
    }
    if files.debug != nil { files.loss = nil }
    let hasSymbols = [files.module, files.debug].contains { $0?.section(named: ".symtab") != nil }
    if !hasSymbols, let module = files.module, let section = module.section(named: ".gnu_debugdata") {
      files.mini = miniDebugFile(module, section)
      if files.mini == nil { files.problem = "its packed symbols (.gnu_debugdata) are damaged, or too large" }
    }
    files.symbols = SymbolTable(files: [files.module, files.debug, files.mini].compactMap { $0 })
    files.problem = files.problem ?? files.symbols.problem
    if Budget.hasEnded {
      let hasLocations = files.hasLocations
      files = Files()
      files.hasLocations = hasLocations
      account(files)
      return false
    }
    found.store(files.module != nil || files.debug != nil, ordering: .relaxed)
    account(files)
    return true
  }

  /// Bytes of symbols that a file may carry packed, packed and unpacked.
  private static let miniLimit = 128 << 20

  /// The file with symbols that is packed in a section of `module`.
  private func miniDebugFile(_ module: ObjectFile, _ section: ObjectFile.Section) -> ObjectFile? {
    guard max(section.size, section.unpackedSize) <= UInt64(clamping: Self.miniLimit),
      let packed = module.contents(of: section), let bytes = Compression.xz(packed, limit: Self.miniLimit)
    else { return nil }
    return ObjectFile(image: bytes, path: module.path, kind: .module)
  }

  private func openDebugInformation(_ files: inout Files) {
    if files.isDebugInformationOpen { return }
    files.isDebugInformationOpen = true
    let candidates = [files.module, files.debug].compactMap { $0 }
    let paths = candidates.map(\.path)
    let objectPaths = paths.contains(reference.path) ? paths : [reference.path] + paths
    var problem: String?
    let size = candidates.first { DebugInformation.isPresent(in: $0) }.map { DebugInformation.size(in: $0) } ?? 0
    guard share.take(size) else {
      waits.store(true, ordering: .relaxed)
      files.isDebugInformationOpen = false
      files.problem = "there was no memory for its debug information, of \(size >> 20) MiB: ask again"
      return
    }
    if waits.exchange(false, ordering: .relaxed) { files.problem = files.symbols.problem }
    files.taken &+= size
    for file in candidates where files.debugInformation == nil {
      files.debugInformation = DebugInformation(
        file: file, search: search, objectPaths: objectPaths, locations: files.hasLocations, problem: &problem)
    }
    if Budget.hasEnded {
      files.debugInformation = nil
      files.isDebugInformationOpen = false
      // The sections that were read stay, but nothing is made of them: they are counted anew.
      share.giveBack(size)
      files.taken &-= size
      return
    }
    if files.debugInformation == nil { files.problem = problem ?? files.problem }
    files.module?.closeDescriptor()
    files.debug?.closeDescriptor()
  }

  private func account(_ files: borrowing Files) {
    let sum = files.symbols.cost &+ files.debugInformationCost &+ (files.mini?.size ?? 0)
    bytes.store(sum, ordering: .relaxed)
    madeBytes.store(files.symbols.madeCost &+ files.debugInformationMade, ordering: .relaxed)
  }

  /// The qualified name if there is one. Only mangled names are taken from the linker's view of a function: the others
  /// may be labels of the compiler's own (`__GI_malloc`, `copy.part.0`), which say less than the source's.
  private func functionName(_ frame: DebugInformation.InlineFrame, symbol: UnsafePointer<CChar>?) -> String? {
    // The symbol is that of the function that was not inlined.
    for mangled in [frame.linkageName, frame.inlined ? nil : symbol] {
      guard let mangled else { continue }
      let name = demangled(cString: mangled)
      if name != String(bounded: mangled) { return name }
    }
    return frame.name ?? frame.linkageName.map { String(bounded: $0) }
      ?? (frame.inlined ? nil : symbol.map(symbolName))
  }

  /// Demangled, without the version that the linker appends (`stdout@GLIBC_2.2.5`).
  private func symbolName(_ name: UnsafePointer<CChar>) -> String {
    let full = String(bounded: name)
    guard let at = full.utf8.firstIndex(of: UInt8(ascii: "@")), at != full.startIndex else {
      return demangled(cString: name)
    }
    return String(full[..<at]).withCString { demangled(cString: $0) }
  }
}
