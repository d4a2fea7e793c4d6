// SPDX-License-Identifier: Apache-2.0
// Start: how the agent starts, with the first call of a hook, before constructors run; and how it
// ends.
//
// The phases go one way: new → starting → ready or disabled. A thread that calls a hook while
// another thread is starting the agent passes through; the blocks that it allocates are counted, in
// a word of the process until there is a segment. In phase disabled, and in a child of fork that
// has no index, threads get a block without a region table: the paths of the hooks need no test for
// that, and record nothing.

import AgentMachine
import SharedLayout

enum Start {
  /// For a hook that was called on a thread without a block. Returns the thread's block, taken as
  /// by `allocs_enter`, or nil if the call must pass through.
  @inline(never)
  static func enterNewThread() -> Thread? {
    let process = allocs_process()
    // From here on, a signal handler on this thread, or libc itself, finds the thread inside a
    // hook.
    let passive = withUnsafeMutablePointer(to: &process.pointee.passive) { $0 }
    allocs_set_registered_block(passive)
    if allocs_load_acquire_u32(&process.pointee.phase) == ALLOCS_PHASE_NEW.rawValue {
      if process.pointee.terminal.malloc == nil { Terminal.resolve() }
      if allocs_compare_exchange_u32(&process.pointee.phase, ALLOCS_PHASE_NEW.rawValue, ALLOCS_PHASE_STARTING.rawValue)
      {
        let ready = start(process)
        allocs_store_release_u32(
          &process.pointee.phase, ready ? ALLOCS_PHASE_READY.rawValue : ALLOCS_PHASE_DISABLED.rawValue)
        // Pairs with the fence in `countEarly`: either this thread sees what another thread has
        // counted, or that thread sees the phase.
        allocs_fence_full()
        publishEarly()
      }
    }
    switch allocs_load_acquire_u32(&process.pointee.phase) {
    case ALLOCS_PHASE_READY.rawValue:
      if let shared = process.pointee.shared, let header = shared.pointee.header,
        let thread = Threads.register(shared, header)
      {
        return thread
      }
      return passive
    case ALLOCS_PHASE_DISABLED.rawValue:
      return passive
    default:
      // Another thread is starting the agent; the next call asks again.
      allocs_set_registered_block(nil)
      return nil
    }
  }

  // MARK: blocks of other threads meanwhile

  /// Counts a block that was allocated while another thread was starting the agent.
  @inline(never)
  static func countEarly() {
    let word = withUnsafeMutablePointer(to: &allocs_process().pointee.early_blocks) { $0 }
    var count = allocs_load_acquire_u32(word)
    while !allocs_compare_exchange_u32(word, count, count &+ 1) { count = allocs_load_acquire_u32(word) }
    allocs_fence_full()
    publishEarly()
  }

  private static func publishEarly() {
    let process = allocs_process()
    guard allocs_load_acquire_u32(&process.pointee.phase) == ALLOCS_PHASE_READY.rawValue else { return }
    let word = withUnsafeMutablePointer(to: &process.pointee.early_blocks) { $0 }
    let count = allocs_exchange_u32(word, 0)
    if count > 0 { Index.count(ALLOCS_COUNTER_EARLY, UInt64(count)) }
  }

  // MARK: the start

  /// False if the process runs without an index.
  private static func start(_ process: UnsafeMutablePointer<allocs_process>) -> Bool {
    let settings = Settings()
    Clock.find(process)
    process.pointee.verbose = settings.isVerbose ? 1 : 0
    settings.sayRefused()
    guard canIndex(process) else { return false }
    keep(settings, process)
    guard let shared = makeShared(settings) else {
      say("cannot get memory for the agent", "raise the limit of address space (ulimit -v)", 0)
      return false
    }
    if let failure = createSegment(settings, shared) {
      System.unmap(UnsafeMutableRawPointer(shared.pointee.regions), regionTableSize)
      System.unmap(UnsafeMutableRawPointer(shared), sharedSize)
      say(failure.what, failure.advice, failure.code)
      return false
    }
    process.pointee.shared = shared
    complete(settings, shared)
    return true
  }

  /// Whether the C library is one that the agent knows, and no agent in the executable keeps an
  /// index.
  private static func canIndex(_ process: UnsafeMutablePointer<allocs_process>) -> Bool {
    guard allocs_find_libc() else {
      say("its C library is not glibc, 2.35 or newer", "the index is for programs of that library", 0)
      return false
    }
    ThreadStack.findDescriptorSize()
    LeftCalls.findAgent(process)
    #if !ALLOCS_INEXE
      if let executable = allocs_first_link_map(), DynamicSymbols.hasKit(executable) {
        var line = Text()
        line.append(" leaves the index to the agent that is linked into the executable")
        line.sayOnRequest()
        return false
      }
    #endif
    return true
  }

  /// The settings that the process keeps outside of memory that is wiped in children.
  private static func keep(_ settings: Settings, _ process: UnsafeMutablePointer<allocs_process>) {
    process.pointee.suballocators = settings.suballocators
    process.pointee.level = settings.level
    process.pointee.free_stacks = settings.wantsFreeStacks ? 1 : 0
    if settings.follows, let page = System.mapShared(UInt64(ALLOCS_PAGE_SIZE)) {
      process.pointee.broken_gate = page.assumingMemoryBound(to: UInt32.self)
      process.pointee.follows = 1
    }
  }

  private static var sharedSize: UInt64 { (UInt64(MemoryLayout<allocs_shared>.size) + 4095) / 4096 * 4096 }
  /// A word for each 64 MiB that there may be, of which a program has few: in small pages.
  private static let regionTableSize = UInt64(ALLOCS_REGION_COUNT) * 8

  /// The agent's memory that is wiped in children, with its tables; nil if there is no memory.
  /// Without memory for rules of unwinding, only call sites are recorded.
  private static func makeShared(_ settings: Settings) -> UnsafeMutablePointer<allocs_shared>? {
    guard let memory = System.map(sharedSize), System.wipeInChildren(memory, sharedSize),
      let regions = System.mapSmall(regionTableSize)
    else { return nil }
    let shared = memory.assumingMemoryBound(to: allocs_shared.self)
    shared.pointee.regions = regions.assumingMemoryBound(to: UnsafeMutablePointer<UInt8>?.self)
    if let rules = System.map(FrameRules.size) {
      shared.pointee.frame_rules = rules.assumingMemoryBound(to: UInt64.self)
      shared.pointee.full_stacks = settings.wantsFullStacks ? 1 : 0
      shared.pointee.depth_limit = settings.depth
      shared.pointee.checks_stacks = settings.wantsFullStacks && settings.checksStacks ? 1 : 0
    }
    shared.pointee.wants_totals = settings.wantsTotals ? 1 : 0
    shared.pointee.ring_records = settings.ringRecords
    shared.pointee.wait_ns = settings.eventsWait
    return shared
  }

  /// Writes to the new segment what the agent itself has to say, and opens it to readers.
  private static func complete(_ settings: Settings, _ shared: UnsafeMutablePointer<allocs_shared>) {
    if settings.refused > 0 { Index.count(ALLOCS_COUNTER_SETTINGS_REFUSED, settings.refused) }
    Mappings.noteOwn(UnsafeMutableRawPointer(shared), sharedSize)
    Mappings.noteOwn(UnsafeMutableRawPointer(shared.pointee.regions), regionTableSize)
    if let rules = shared.pointee.frame_rules { Mappings.noteOwn(UnsafeMutableRawPointer(rules), FrameRules.size) }
    guard let header = shared.pointee.header else { return }
    _ = Allocators.register(
      shared, header, address: Terminal.mallocAddress, kind: ALLOCS_ALLOCATOR_PRIMARY)
    if shared.pointee.full_stacks != 0 { header.pointee.flags |= ALLOCS_FLAG_FULL_STACKS.rawValue }
    if settings.wantsEvents {
      Consumers.turnOn(for: ALLOCS_ALWAYS)
    } else if settings.recorder != 0, settings.recorder == System.parentID {
      Consumers.turnOn(for: ALLOCS_UNTIL_RECORDED)
    }
    Segment.publish(header)
  }

  // MARK: where the segment goes

  private static func createSegment(
    _ settings: Settings, _ shared: UnsafeMutablePointer<allocs_shared>
  ) -> Segment.Failure? {
    allocs_process().pointee.names_directory = settings.directory == nil ? 0 : 1
    if let chosen = settings.directory { return createSegment(inDirectory: openDirectory(chosen), shared) }
    var failure: Segment.Failure?
    for place in 0..<UInt32(ALLOCS_PLACE_COUNT.rawValue) {
      let directory = Directory.open(place)
      // Where all fail, the last place tells why: nearly every machine has it.
      guard directory >= 0 else {
        failure = Segment.Failure(
          what: "has no directory of its user's for the index",
          advice: "start allocsd as root, which makes one, or set ALLOCS_DIR", code: directory)
        continue
      }
      failure = createSegment(inDirectory: directory, shared)
      if failure == nil { return nil }
    }
    return failure
  }

  private static func openDirectory(_ path: UnsafePointer<CChar>) -> Int {
    System.open(path, System.OpenFlags.readOnly | System.OpenFlags.directory | System.OpenFlags.noFollow)
  }

  /// `directory`: an open descriptor, which is closed; or the negated error number of its opening.
  private static func createSegment(
    inDirectory directory: Int, _ shared: UnsafeMutablePointer<allocs_shared>
  ) -> Segment.Failure? {
    guard directory >= 0 else {
      return Segment.Failure(
        what: "cannot open the segment directory", advice: "create it, or set ALLOCS_DIR to one that exists",
        code: directory)
    }
    let failure = Segment.create(in: directory, shared)
    if failure == nil {
      if allocs_process().pointee.follows != 0 { rememberDirectory(directory) }
      if let header = shared.pointee.header, Sweep.isDue(header) { Sweep.run(in: directory, header) }
    }
    System.close(directory)
    return failure
  }

  /// Keeps the directory's absolute name: the program may change its working directory, and may
  /// write over its environment.
  private static func rememberDirectory(_ directory: Int) {
    var link = Text()
    link.append("/proc/self/fd/")
    link.append(UInt64(directory))
    let capacity = Int(ALLOCS_DIRECTORY_SIZE) - 1
    let name = allocs_directory()
    let size = link.withCString {
      System.readLink($0, UnsafeMutableRawPointer(name).assumingMemoryBound(to: UInt8.self), capacity)
    }
    name[max(0, min(size, capacity))] = 0
  }

  // MARK: the constructor and the destructor

  /// The agent's constructor: libc is ready, and no other threads run yet.
  static func constructed() {
    let process = allocs_process()
    if allocs_registered_block() == nil {
      if let thread = enterNewThread() { allocs_leave(thread) }
    }
    guard process.pointee.phase == ALLOCS_PHASE_READY.rawValue, let own = allocs_enter() else { return }
    allocs_register_fork_handlers()
    if allocs_create_thread_key(threadEnded) { process.pointee.has_thread_key = 1 }
    if let shared = process.pointee.shared, let header = shared.pointee.header {
      Modules.noteAll(shared, header)
      allocs_visit_thread_local_blocks(noteThreadLocalBlock)
    }
    Modules.findLoader()
    #if !ALLOCS_INEXE
      findOwnCode()
    #endif
    allocs_leave(own)
    #if !ALLOCS_INEXE
      // Each of these may give up the index.
      EntryPoints.bind()
      if process.pointee.phase == ALLOCS_PHASE_READY.rawValue { Declarations.bind() }
      if process.pointee.phase == ALLOCS_PHASE_READY.rawValue { Definitions.bind() }
      if process.pointee.phase == ALLOCS_PHASE_READY.rawValue { LaterModules.watch() }
    #else
      KitLimits.report()
    #endif
  }

  private static func findOwnCode() {
    var start: UInt64 = 0
    var end: UInt64 = 0
    var map: UnsafeMutablePointer<link_map>?
    let address = UInt64(UInt(bitPattern: allocs_preserving_stub()))
    guard allocs_find_module(address, &start, &end, &map), let map, allocs_is_own_module(map) else { return }
    allocs_process().pointee.own_start = start
    allocs_process().pointee.own_size = end &- start
  }

  /// Stops recording. Called while the index has only what this thread has put there.
  static func giveUp() {
    let process = allocs_process()
    allocs_store_release_u32(&process.pointee.phase, ALLOCS_PHASE_DISABLED.rawValue)
    if let thread = allocs_registered_block() { Threads.takeRegions(thread) }
  }

  /// The agent's destructor. _exit and signals end a process without it: then a reader sees that
  /// the process is gone.
  static func destructed() {
    guard let header = allocs_process().pointee.shared?.pointee.header else { return }
    allocs_store_release_u32(&header.pointee.state, ALLOCS_STATE_EXITED.rawValue)
  }

  // MARK: what ALLOCS_VERBOSE asks for

  private static func say(_ what: StaticString, _ advice: StaticString, _ code: Int) {
    var line = Text()
    line.append(" runs unindexed: ")
    line.append(what)
    line.append(error: code)
    line.append(" \u{2014} ")
    line.append(code == System.tooManyDescriptors ? "leave it two file descriptors at its start (ulimit -n)" : advice)
    line.sayOnRequest()
  }
}

// MARK: called from C

@c(allocs_constructed) func agentConstructed() { Start.constructed() }
@c(allocs_destructed) func agentDestructed() { Start.destructed() }
@c(allocs_fork_begins) func agentForkBegins() { ForkCopy.prepare() }
@c(allocs_fork_ended) func agentForkEnded() { ForkCopy.finish() }
@c(allocs_child_started) func agentChildStarted() { ForkedChild.started() }
@c(allocs_next_definition)
func agentNextDefinition(_ name: UnsafePointer<CChar>) -> UnsafeMutableRawPointer? {
  let function = Terminal.next(cString: name).function
  #if ALLOCS_INEXE
    return function
  #else
    // If the function has a hook, this is what lies behind the hook: the call that asks is being
    // recorded already.
    return allocs_below_entry(UInt64(UInt(bitPattern: function))) ?? function
  #endif
}
/// Whether a preloaded agent is among the modules.
@c(allocs_agent_is_preloaded) func agentIsPreloaded() -> Bool {
  var module = allocs_first_link_map()
  while let current = module {
    if DynamicSymbols.isAgent(current) { return true }
    module = current.pointee.l_next
  }
  return false
}
/// For a function that finds no function below it in Terminal's table: this is the first call of
/// the process.
@c(allocs_resolve_terminal) func agentResolveTerminal() { Terminal.resolve() }
