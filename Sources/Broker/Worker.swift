// SPDX-License-Identifier: Apache-2.0
// A worker as the broker has it: the process, its channel, its log, and what it holds. The program is the broker's own
// (/proc/self/exe, which an upgrade doesn't replace), started with a clean environment and three descriptors: its log
// (1 and 2), and its channel (3). It gives up the broker's identity itself, before anything else (Confinement): a
// process that had the user's identity when it executed the program could be traced by that user.

import ByteText
import CBroker
import Confinement
import Glibc
import ServerProtocol
import SystemAccess

/// Whose questions a worker answers.
enum WorkerKey: Hashable, CustomStringConvertible {
  case user(UInt32)
  /// Root's questions about all users; it runs as a user that no account has.
  case gatherer
  /// Opens destinations of events, which may take long, as the broker's own user.
  case opener
  /// Takes connections over TCP, of those who have the token; it runs as another user that no account has.
  case front

  /// Whether it works for root.
  var isRoots: Bool { if case .user(let id) = self { id == 0 } else { true } }

  var description: String { if case .user(let id) = self { "worker of user \(id)" } else { role } }

  var role: String {
    switch self {
    case .user: "worker"
    case .gatherer: "gatherer"
    case .opener: "opener"
    case .front: "front"
    }
  }
}

/// Owns the broker's ends of a worker.
final class Worker {
  let key: WorkerKey
  let processID: Int32
  let started: Double
  let channel: MessageChannel
  let log: Descriptor
  /// The part of a line of its log that has come.
  var line: [UInt8] = []

  /// Connections that were handed to it; of those, the ones of users and of root that it hasn't said to be closed.
  var sent: UInt64 = 0
  var open = (users: 0, root: 0)
  var lastUse: Double
  /// The ping that it hasn't answered, and when that was sent.
  var ping: (number: UInt64, time: Double)?
  var pings: UInt64 = 0
  var hasAnswered = false
  /// When it was told to stop.
  var stopped: Double?
  /// The messages that it may send.
  var messages: Allowance
  /// Pieces of its log that are read: one that writes without end waits.
  var pieces: Allowance
  var isLogPaused = false
  /// Its processor time, in clock ticks, when that was last looked at; and for how many looks it has used a processor
  /// continuously.
  var ticks: UInt64 = 0
  var busyLooks = 0
  var share = ProcessorShare.usual

  /// The descriptor of its channel in a new worker; and that of the socket which the front listens at.
  static let (channelNumber, listenerNumber): (Int32, Int32) = (3, 4)

  private init(_ key: WorkerKey, _ processID: Int32, _ channel: Int32, _ log: Int32, at now: Double) {
    self.key = key
    self.processID = processID
    self.channel = MessageChannel(Descriptor(adopting: channel))
    self.log = Descriptor(adopting: log)
    started = now
    lastUse = now
    messages = Allowance(burst: 20_000, rate: 5000, at: now)
    pieces = Allowance(burst: 512, rate: 128, at: now)
  }

  /// Starts a worker. `arguments`: the broker's own. Throws where the system is short of something.
  /// `isPrivileged`: the worker is to become its user. `group`: the user's, where the system doesn't know the user.
  static func start(
    _ key: WorkerKey, isPrivileged: Bool, group: UInt32?, arguments: [String], listener: Int32?, at now: Double
  ) throws(Complaint) -> Worker {
    func failure(_ code: Int32) -> Complaint {
      Complaint(
        .shortage, what: "cannot start a worker: \(systemWords(code))", advice: "try again later", code: code)
    }
    var pipe: [Int32] = [-1, -1]
    guard let ends = MessageChannel.pair() else { throw failure(errno) }
    if key != .opener { PassedRights.refuse(on: ends.0) }
    let refused = allocs_pipe(&pipe)
    guard refused == 0 else {
      close(ends.0)
      close(ends.1)
      throw failure(refused)
    }
    // The child's ends get numbers beyond those that they are copied to.
    let channel = fcntl(ends.1, F_DUPFD_CLOEXEC, 10)
    let log = fcntl(pipe[1], F_DUPFD_CLOEXEC, 10)
    let shortage = errno
    close(ends.1)
    close(pipe[1])
    var processID: Int32 = 0
    var code = channel < 0 || log < 0 ? shortage : 0
    if code == 0 {
      code = spawn(key, isPrivileged, group, arguments, channel: channel, log: log, listener: listener, &processID)
    }
    if channel >= 0 { close(channel) }
    if log >= 0 { close(log) }
    guard code == 0 else {
      close(ends.0)
      close(pipe[0])
      throw failure(code)
    }
    return Worker(key, processID, ends.0, pipe[0], at: now)
  }

  private static func spawn(
    _ key: WorkerKey, _ isPrivileged: Bool, _ group: UInt32?, _ arguments: [String], channel: Int32, log: Int32,
    listener: Int32?, _ processID: inout Int32
  ) -> Int32 {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_adddup2(&actions, log, 1)
    posix_spawn_file_actions_adddup2(&actions, log, 2)
    posix_spawn_file_actions_adddup2(&actions, channel, channelNumber)
    if let listener { posix_spawn_file_actions_adddup2(&actions, listener, listenerNumber) }
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    var all = sigset_t()
    sigemptyset(&none)
    sigfillset(&all)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setsigdefault(&attributes, &all)
    // A session, and so a process group, of its own.
    let setSession: Int16 = 0x80
    posix_spawnattr_setflags(
      &attributes, Int16(POSIX_SPAWN_SETSIGMASK) | Int16(POSIX_SPAWN_SETSIGDEF) | setSession)

    var words = ["allocsd: \(key)", "--role", key.role]
    if isPrivileged, case .user(let id) = key {
      words += ["--user", "\(id)"]
      if let group { words += ["--group", "\(group)"] }
    }
    // The backtrace of a worker that crashes would take minutes, and fill the log.
    var environment: [ForeignText] = ["SWIFT_BACKTRACE=enable=no"]
    for name in ["ALLOCS_DIR", "ALLOCSD_IO_URING", "TZ"] {
      if let value = getenv(name) { environment.append("\(name)=\(ForeignText(reversibly: UnsafePointer(value)))") }
    }
    let argumentPointers = (words + arguments).map { strdup($0.originalPath) } + [nil]
    let environmentPointers = environment.map { strdup($0.originalPath) } + [nil]
    defer { for pointer in [argumentPointers, environmentPointers].joined() { free(pointer) } }
    return posix_spawn(&processID, "/proc/self/exe", &actions, &attributes, argumentPointers, environmentPointers)
  }

  /// Processor time of the process, in clock ticks; nil if it is gone.
  func processorTicks() -> UInt64? {
    let file = Glibc.open("/proc/\(processID)/stat", O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return nil }
    defer { close(file) }
    var bytes = [UInt8](repeating: 0, count: 1024)
    let count = read(file, &bytes, bytes.count)
    // The name may hold anything, and ends with the last parenthesis.
    guard count > 0, let end = bytes[..<count].lastIndex(of: UInt8(ascii: ")")) else { return nil }
    let words = bytes[..<count][end...].split(separator: UInt8(ascii: " "))
    guard words.count > 13, let user = UInt64(String(decoding: words[12], as: UTF8.self)),
      let system = UInt64(String(decoding: words[13], as: UTF8.self))
    else { return nil }
    return user &+ system
  }
}
