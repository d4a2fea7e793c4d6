// Start: how the agent comes to life with the first call of a hook, before constructors run, and how it ends.
//
// The phases go one way: new → starting → ready or disabled. Whoever comes while another thread is starting passes
// through; what it allocates is counted, in a word of the process until there is a segment. Disabled, and in a child of
// fork, threads get a block without region table: the hooks stay as short as they are, and nothing is recorded.

import AgentMachine
import SharedLayout

enum Start {
  /// A hook was called on a thread that has no block. Gives the thread's block, taken as by `allocs_enter`, or nil if
  /// the call must pass through.
  @inline(never)
  static func enterNewThread() -> Thread? {
    let process = allocs_process()
    // From here on a signal handler on this thread, or libc itself, finds a thread that is inside a hook.
    let passive = withUnsafeMutablePointer(to: &process.pointee.passive) { $0 }
    allocs_set_registered_block(passive)
    if allocs_load_acquire_u32(&process.pointee.phase) == ALLOCS_PHASE_NEW.rawValue {
      if process.pointee.terminal.malloc == nil { Terminal.resolve() }
      if allocs_compare_exchange_u32(&process.pointee.phase, ALLOCS_PHASE_NEW.rawValue, ALLOCS_PHASE_STARTING.rawValue)
      {
        let ready = start(process)
        allocs_store_release_u32(
          &process.pointee.phase, ready ? ALLOCS_PHASE_READY.rawValue : ALLOCS_PHASE_DISABLED.rawValue)
        // Either this sees what another thread has added, or that thread sees the phase.
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

  /// A block was handed out while another thread was starting the agent.
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

  private static func start(_ process: UnsafeMutablePointer<allocs_process>) -> Bool {
    let settings = Settings()
    Clock.find(process)
    process.pointee.verbose = settings.isVerbose ? 1 : 0
    settings.sayRefused()
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
    process.pointee.suballocators = settings.suballocators
    process.pointee.level = settings.level
    if settings.follows, let page = System.mapShared(UInt64(ALLOCS_PAGE_SIZE)) {
      process.pointee.broken_gate = page.assumingMemoryBound(to: UInt32.self)
      process.pointee.follows = 1
    }
    let size = (UInt64(MemoryLayout<allocs_shared>.size) + 4095) / 4096 * 4096
    let regionTableSize = UInt64(ALLOCS_REGION_COUNT) * 8
    guard let memory = System.map(size), System.wipeInChildren(memory, size),
      let regions = System.map(regionTableSize)
    else {
      say("cannot get memory for the agent", "raise the limit of address space (ulimit -v)", 0)
      return false
    }
    let shared = memory.assumingMemoryBound(to: allocs_shared.self)
    shared.pointee.regions = regions.assumingMemoryBound(to: UnsafeMutablePointer<UInt8>?.self)
    if let rules = System.map(FrameRules.size) {
      shared.pointee.frame_rules = rules.assumingMemoryBound(to: UInt64.self)
      shared.pointee.full_stacks = settings.wantsFullStacks ? 1 : 0
      shared.pointee.depth_limit = settings.depth
      shared.pointee.checks_stacks = settings.wantsFullStacks && settings.checksStacks ? 1 : 0
    }
    shared.pointee.ring_records = settings.ringRecords
    shared.pointee.wait_ns = settings.eventsWait
    process.pointee.free_stacks = settings.wantsFreeStacks ? 1 : 0
    if let failure = createSegment(settings, shared) {
      System.unmap(regions, regionTableSize)
      System.unmap(memory, size)
      say(failure.what, failure.advice, failure.code)
      return false
    }
    process.pointee.shared = shared
    if settings.refused > 0 { Index.count(ALLOCS_COUNTER_SETTINGS_REFUSED, settings.refused) }
    Mappings.noteOwn(memory, size)
    Mappings.noteOwn(regions, regionTableSize)
    if let rules = shared.pointee.frame_rules { Mappings.noteOwn(UnsafeMutableRawPointer(rules), FrameRules.size) }
    if let header = shared.pointee.header {
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
    return true
  }

  // MARK: where the segment goes

  private static func createSegment(
    _ settings: Settings, _ shared: UnsafeMutablePointer<allocs_shared>
  ) -> Segment.Failure? {
    if let chosen = settings.directory { return createSegment(in: chosen, shared) }
    if createSegment(in: allocs_shared_directory(0), shared) == nil { return nil }
    let path: UnsafePointer<CChar> = allocs_shared_directory(ALLOCS_SHARED_DIRECTORIES - 1)
    if System.makeDirectory(path, mode: 0o1777) >= 0 {
      // The umask has cut the mode.
      let directory = openDirectory(path)
      if directory >= 0 {
        _ = System.changeMode(directory, 0o1777)
        System.close(directory)
      }
    }
    return createSegment(in: path, shared)
  }

  private static func openDirectory(_ path: UnsafePointer<CChar>) -> Int {
    System.open(path, System.OpenFlags.readOnly | System.OpenFlags.directory | System.OpenFlags.noFollow)
  }

  private static func createSegment(
    in path: UnsafePointer<CChar>, _ shared: UnsafeMutablePointer<allocs_shared>
  ) -> Segment.Failure? {
    let directory = openDirectory(path)
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

  /// By its absolute name: the program may change its working directory, and write over its environment.
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

  // MARK: what libc is needed for

  /// The agent's constructor: libc is ready, other threads do not run yet.
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

  /// Records nothing any more. Nothing is in the index yet that this thread has not put there.
  static func giveUp() {
    let process = allocs_process()
    allocs_store_release_u32(&process.pointee.phase, ALLOCS_PHASE_DISABLED.rawValue)
    allocs_registered_block()?.pointee.regions = nil
    allocs_registered_block()?.pointee.free_regions = nil
  }

  /// The agent's destructor. Not run by _exit or a signal: then a reader sees that the process is gone.
  static func destructed() {
    guard let header = allocs_process().pointee.shared?.pointee.header else { return }
    allocs_store_release_u32(&header.pointee.state, ALLOCS_STATE_EXITED.rawValue)
  }

  /// In a child of fork. What leads to the parent's segment has been wiped. Only a hook that was under way when its
  /// thread, in a signal handler, called fork may still hold an address in it: memory of the child's own goes there.
  static func childStarted() {
    let process = allocs_process()
    var wantsEvents = false
    if process.pointee.has_control != 0 {
      wantsEvents = allocs_control().pointee.always == ALLOCS_ALWAYS.rawValue
      System.mapOver(UnsafeMutableRawPointer(allocs_control()), UInt64(ALLOCS_PAGE_SIZE))
      process.pointee.has_control = 0
    }
    if Heritage.takeOver(wantsEvents: wantsEvents) { return }
    guard allocs_is_inside() else { return }
    if let fixed = process.pointee.fixed_base {
      System.mapOver(fixed, process.pointee.fixed_size)
      // The hook will count the allocation in its thread's entry; its block, wiped, has forgotten which that is.
      let block = allocs_registered_block()
      block?.pointee.entry = UnsafeMutableRawPointer(fixed).assumingMemoryBound(to: allocs_thread.self)
      // Likewise for an event that was being recorded.
      block?.pointee.events.ring = UnsafeMutableRawPointer(fixed).assumingMemoryBound(to: allocs_ring.self)
      block?.pointee.events.records = UnsafeMutableRawPointer(fixed).assumingMemoryBound(to: allocs_event.self)
      block?.pointee.events.contexts = UnsafePointer(
        UnsafeMutableRawPointer(fixed).assumingMemoryBound(to: UInt64.self))
    }
    var index = 0
    while index < Int(ALLOCS_MAPPED_ARENAS), let arena = allocs_arena_mappings()[index] {
      System.mapOver(arena, UInt64(ALLOCS_ARENA_STRIDE))
      index += 1
    }
    index = 0
    while index < Int(ALLOCS_NESTED_CAPACITY), let arena = allocs_nested_mappings()[index] {
      System.mapOver(arena, UInt64(ALLOCS_NESTED_STRIDE))
      index += 1
    }
    index = 0
    while index < Int(ALLOCS_MAPPED_RINGS), let ring = allocs_ring_mappings()[index] {
      System.mapOver(ring, process.pointee.ring_size)
      index += 1
    }
  }

  // MARK: the one line that may be said

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

// MARK: the environment

/// What the environment asks for: see allocs_settings.h. A value that its variable can't have is left out and counted.
struct Settings {
  /// ALLOCS_DIR, nil if not set or empty.
  var directory: UnsafePointer<CChar>?
  var isVerbose = false
  var follows = false
  var wantsFullStacks = true
  var checksStacks = false
  /// ALLOCS_EVENTS: events are on from the start and stay so
  var wantsEvents = false
  /// ALLOCS_RECORDER: the process whose child's events are on from the start until they were recorded; 0 if not set.
  /// Children of that child inherit the variable, and have another parent.
  var recorder: UInt32 = 0
  /// ALLOCS_FREE_STACKS: frees have a context of their own
  var wantsFreeStacks = false
  /// ALLOCS_RING: the next power of two
  var ringRecords = UInt64(ALLOCS_RING_RECORDS_DEFAULT)
  /// ALLOCS_EVENTS_WAIT, as nanoseconds: how long a thread waits at most for a lossless consumer
  var eventsWait = ALLOCS_WAIT_NANOSECONDS_DEFAULT
  /// ALLOCS_DEPTH: frames of a stack that are kept
  var depth = ALLOCS_DEPTH_DEFAULT
  /// ALLOCS_SUBALLOC and ALLOCS_LEVEL, nil if not set or empty.
  var suballocators: UnsafePointer<CChar>?
  var level: UnsafePointer<CChar>?
  /// Variables whose value can't be read.
  var refused: UInt64 = 0

  init() {
    var settings = self
    Self.forEach { id, text, value, error in
      if error == ALLOCS_SETTING_READ { settings.take(id, text, value) } else { settings.refused += 1 }
    }
    self = settings
  }

  private mutating func take(_ id: UInt32, _ text: UnsafePointer<CChar>, _ value: UInt64) {
    switch id {
    case ALLOCS_SETTING_DIR.rawValue: directory = text
    case ALLOCS_SETTING_VERBOSE.rawValue: isVerbose = value != 0
    case ALLOCS_SETTING_FOLLOW.rawValue: follows = value != 0
    case ALLOCS_SETTING_STACKS.rawValue:
      let (site, check): (UInt64, UInt64) = (1, 2)
      wantsFullStacks = value != site
      checksStacks = value == check
    case ALLOCS_SETTING_SUBALLOC.rawValue: suballocators = text
    case ALLOCS_SETTING_LEVEL.rawValue: level = text
    case ALLOCS_SETTING_DEPTH.rawValue: depth = UInt32(truncatingIfNeeded: value)
    case ALLOCS_SETTING_EVENTS.rawValue: wantsEvents = value != 0
    case ALLOCS_SETTING_RECORDER.rawValue: recorder = UInt32(truncatingIfNeeded: value)
    case ALLOCS_SETTING_FREE_STACKS.rawValue: wantsFreeStacks = value != 0
    case ALLOCS_SETTING_RING.rawValue: ringRecords = Self.records(ofBytes: value)
    case ALLOCS_SETTING_EVENTS_WAIT.rawValue: eventsWait = value * 1_000_000
    default: break  // a setting of programs that ask
    }
  }

  /// Says on request which variables were left out.
  func sayRefused() {
    guard refused > 0 else { return }
    Self.forEach { id, text, _, error in
      guard error != ALLOCS_SETTING_READ else { return }
      var line = Text()
      line.append(" leaves ALLOCS_")
      if let name = allocs_setting_name(id) { line.append(cString: name) }
      line.append(error == ALLOCS_SETTING_OUT_OF_RANGE ? " out, which is out of range: " : " out, which can't be ")
      line.append(cString: text)
      line.sayOnRequest()
    }
  }

  /// Calls `body` for each variable that names a setting and isn't empty, with its value, if that can be read.
  private static func forEach(
    _ body: (_ id: UInt32, _ text: UnsafePointer<CChar>, _ value: UInt64, _ error: allocs_setting_error) -> Void
  ) {
    guard var next = allocs_environment() else { return }
    while let variable = next.pointee {
      next += 1
      var text: UnsafePointer<CChar>?
      let found = allocs_setting_of(variable, &text)
      guard found >= 0, let text, text.pointee != 0 else { continue }
      var value: UInt64 = 0
      let error = allocs_read_setting(UInt32(found), text, &value)
      body(UInt32(found), text, value, error)
    }
  }

  private static func records(ofBytes bytes: UInt64) -> UInt64 {
    var records = UInt64(ALLOCS_RING_RECORDS_MIN)
    while records < UInt64(ALLOCS_RING_RECORDS_MAX), records * UInt64(MemoryLayout<allocs_event>.stride) < bytes {
      records *= 2
    }
    return records
  }
}

// MARK: called from C

@c(allocs_constructed) func agentConstructed() { Start.constructed() }
@c(allocs_destructed) func agentDestructed() { Start.destructed() }
@c(allocs_fork_begins) func agentForkBegins() { Heritage.prepare() }
@c(allocs_fork_ended) func agentForkEnded() { Heritage.finish() }
@c(allocs_child_started) func agentChildStarted() { Start.childStarted() }
@c(allocs_next_definition)
func agentNextDefinition(_ name: UnsafePointer<CChar>) -> UnsafeMutableRawPointer? {
  let function = Terminal.next(cString: name).function
  #if ALLOCS_INEXE
    return function
  #else
    // Behind its hook, if it has one: this call is being recorded.
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
/// For a function that finds the table empty: the very first call of the process.
@c(allocs_resolve_terminal) func agentResolveTerminal() { Terminal.resolve() }
