// SPDX-License-Identifier: Apache-2.0
// The broker: the only part of allocsd with privileges. It accepts connections, asks the kernel who is at the other
// end, and hands each connection to a worker of one user, as a descriptor; from then on it has no part in it. It
// watches which segments there are and how processes end. It reads nothing that a user wrote but the first line of
// root's requests (FirstLine.swift), and the header of fixed size by which a file claims a process (SegmentWatch).
//
// - One thread, and one loop that waits for all descriptors at once. Nothing in it waits for anybody: every descriptor
//   is asked without waiting, and what can't be done now is refused with a short answer.
// - All tables are bounded: connections that wait for their first line, workers, users (Shares.swift).
// - A worker is hostile once it has been broken into. Its messages concern its own user alone (Channel.swift), its log
//   is copied in whole, printable, bounded lines, and one that doesn't answer pings is killed.

import CBroker
import Confinement
import Glibc
import SegmentFiles
import SegmentWatch
import ServerProtocol
import SystemAccess

/// What the broker was told at its start.
public struct BrokerOptions: Sendable {
  public var retention = RetentionPolicy()
  /// Seconds between two looks for ended processes, where nothing else leads to one.
  public var lookInterval = 10.0
  /// Open connections of all users other than root, and of one of them.
  public var connections = 512
  public var connectionsOfOneUser = 64
  /// Whether the events of every process are exported: workers of all users with live processes run then.
  public var exportsEvents = false
  /// Workers of users other than root at a time.
  public var workers = 256
  /// Seconds after which a worker that doesn't answer is killed.
  public var workerPatience = 10.0
  public var logLevel = LogLevel.info
  /// The program's own arguments, which each worker gets, too.
  public var arguments: [String] = []
  /// The socket that the front listens at, a number from 10 on, and the token that it asks for; nil: there is no front.
  public var front: (listener: Int32, token: String)?

  public init() {}
}

/// Serves until SIGTERM or SIGINT.
public final class Broker {
  enum Source {
    case listener, signals, segments
    case channel(Worker)
    case log(Worker)
    case firstLine(WaitingConnection)
  }

  /// A connection of root's whose first line has not come.
  final class WaitingConnection {
    let connection: Descriptor
    let until: Double
    init(_ connection: consuming Descriptor, until: Double) {
      self.connection = connection
      self.until = until
    }
  }

  let options: BrokerOptions
  let log: Log
  /// Whether there are workers of other users. Without root's rights, all connections go to the one worker; so they do
  /// where root is root in a user namespace that has no other users.
  let isPrivileged = Identity.mayBecome(Identity.nobody)
  let place: String
  private let epoll: Descriptor
  private var listener: Descriptor?
  private var socket: ListeningSocket?
  private var barred: BarredUsers
  private let signals: Descriptor
  private var sources: [Int32: Source] = [:]
  var watch: SegmentWatch
  var figures = Figures()
  /// Of a user by the key of that user's worker. Root's gatherer, opener and front have shares of their own: a failure
  /// of theirs must not keep root from asking about root's own processes.
  var shares: [WorkerKey: UserShares] = [:]
  var workers: [WorkerKey: Worker] = [:]
  /// Where the system hands cgroups over.
  var cgroups: WorkerCgroups?
  /// Workers that were told to stop, by process id.
  var leaving: [Int32: Worker] = [:]
  /// The requests for destinations that the opener has not answered: who asked, and with which number.
  var openings: [UInt64: (worker: Worker, number: UInt64)] = [:]
  var lastOpening: UInt64 = 0
  var openedDestinations: [String: (inode: UInt64, count: Int)] = [:]
  /// When the files of a user's processes are to be looked at by a worker, where none runs; and when that was last
  /// done.
  var dueKeeping: [UInt32: Double] = [:]
  var lastKeeping: [UInt32: Double] = [:]
  private var waiting: [Int32: WaitingConnection] = [:]
  /// Whether segments are looked for in the usual directories, of which root makes those of users.
  private let makesDirectories = geteuid() == 0 && getenv("ALLOCS_DIR") == nil
  private var usersWithDirectory: Set<UInt32> = []
  /// Users whose workers are to look, and when the next are told.
  private var owedLooks: Set<UInt32> = []
  private var nextLooks = 0.0
  private var nextTick = 0.0
  /// Who has connected last: a new worker has the group of who needs it.
  private(set) var lastCaller: (user: UInt32, process: Int32)?
  private var listenerPausedUntil: Double?
  private var lastWarning = 0.0
  private(set) var stopsAt: Double?

  /// Seconds of work on segments in one turn of the loop, and on connections.
  private static let workPiece = 0.0005
  private static let acceptPiece = 0.004
  static let waitingLimit = 128
  static let firstLinePatience = 3.0
  static let stopPatience = 5.0

  /// Takes over a socket, and begins to watch. To be called before the process has other threads.
  public init(socketPath: String, options: BrokerOptions) throws(Complaint) {
    OpenFileLimit.openStandardDescriptors()
    StraySignals.ignore()
    // Ignored, it would have the system take the ends of workers.
    signal(SIGCHLD, SIG_DFL)
    let limit = OpenFileLimit.raise()
    self.options = options
    log = Log(level: options.logLevel)
    var socket = try ListeningSocket.open(at: socketPath)
    place = socket.place
    guard let number = socket.takeDescriptor() else {
      throw Complaint(.obstacle, what: "cannot listen at \(socketPath)", advice: "name another place with --socket")
    }
    listener = Descriptor(adopting: number)
    self.socket = consume socket
    _ = fcntl(number, F_SETFL, fcntl(number, F_GETFL) | O_NONBLOCK)
    // A user who connects faster than connections are accepted must not keep others out of the queue.
    listen(number, SOMAXCONN)
    barred = BarredUsers(of: number)
    epoll = Descriptor(adopting: epoll_create1(Int32(EPOLL_CLOEXEC)))
    signals = Descriptor(adopting: Self.blockSignals())
    guard epoll.number >= 0, signals.number >= 0 else {
      throw Complaint(.obstacle, what: "cannot wait for connections: \(systemWords(errno))", code: errno)
    }
    for notice in try makesDirectories ? SharedDirectories.makeRootsDirectory() : [] { log(.notice, notice) }
    watch = try SegmentWatch(
      retention: options.retention, interval: options.lookInterval, watchLimit: limit / 4, log: log)
    add(number, .listener)
    add(signals.number, .signals)
    for descriptor in watch.descriptors { add(descriptor, .segments) }
  }

  // MARK: the loop

  /// Returns when SIGTERM or SIGINT has come and all workers are gone.
  public func run() {
    takeCgroups()
    watch.start()
    noticed(watch.owners)
    startFront()
    log(.info, "serving", ("socket", place), ("uid", "\(geteuid())"))
    Notification.ready.send()
    var events = [epoll_event](repeating: epoll_event(), count: 64)
    while true {
      let count = epoll_wait(epoll.number, &events, Int32(clamping: events.count), patience())
      let came = events.prefix(max(0, Int(clamping: count)))
      // Whoever knocks comes first, whatever else there is to do.
      if came.contains(where: { $0.data.fd == listener?.number }) { accept() }
      for event in came where event.data.fd != listener?.number {
        // What an earlier event of this turn has closed is not there any more.
        guard let source = sources[event.data.fd] else { continue }
        handle(source)
      }
      tick()
      // A worker that waits for a file system of its user's making ends when that answers.
      if let end = stopsAt, workers.isEmpty, leaving.isEmpty || now > end + 0.5 { break }
    }
    log(.info, "stopped")
  }

  private func handle(_ source: Source) {
    switch source {
    case .listener: accept()
    case .signals: takeSignals()
    case .segments: takeChanges()
    case .channel(let worker): takeMessages(of: worker)
    case .log(let worker): takeLog(of: worker)
    case .firstLine(let connection): resume(connection)
    }
  }

  /// Milliseconds until something is to be done.
  private func patience() -> Int32 {
    var time = min(stopsAt == nil ? watch.nextWork : .infinity, nextTick)
    if !owedLooks.isEmpty { time = min(time, nextLooks) }
    if let listenerPausedUntil { time = min(time, listenerPausedUntil) }
    // bounded: seconds in floating point
    return Int32(exactly: (max(0, min(60, time - now)) * 1000 + 0.999).rounded(.down)) ?? 0
  }

  var now: Double { seconds(of: CLOCK_MONOTONIC) }

  private func tick() {
    let now = now
    if let paused = listenerPausedUntil, now >= paused, let number = listener?.number {
      listenerPausedUntil = nil
      add(number, .listener)
    }
    if stopsAt == nil, now >= watch.nextWork { noticed(watch.work(for: Self.workPiece)) }
    sendLooks(at: now)
    guard now >= nextTick else { return }
    for connection in Array(waiting.values) where now >= connection.until {
      // Whoever asks later than this is answered by the gatherer, or told by it to ask anew.
      finish(connection, .gatherer)
    }
    tendWorkers(at: now)
    barred.lift(at: now)
    if shares.count > 1000 {
      for (key, share) in shares where workers[key] == nil {
        var share = share
        if share.isForgettable(at: now) { shares[key] = nil }
      }
    }
    let isQuiet = workers.isEmpty && leaving.isEmpty && waiting.isEmpty && dueKeeping.isEmpty && barred.isEmpty
    nextTick = now + (stopsAt != nil ? 0.05 : isQuiet ? 60 : 0.5)
  }

  /// Something is to be done soon.
  func wake(in seconds: Double = 0.5) { nextTick = min(nextTick, now + seconds) }

  func add(_ descriptor: Int32, _ source: Source, edge: Bool = false) {
    var event = epoll_event()
    event.events = EPOLLIN.rawValue | (edge ? EPOLLET.rawValue | EPOLLRDHUP.rawValue : 0)
    event.data.fd = descriptor
    if epoll_ctl(epoll.number, EPOLL_CTL_ADD, descriptor, &event) == 0 { sources[descriptor] = source }
  }

  func remove(_ descriptor: Int32) {
    guard sources.removeValue(forKey: descriptor) != nil else { return }
    var event = epoll_event()
    epoll_ctl(epoll.number, EPOLL_CTL_DEL, descriptor, &event)
  }

  // MARK: connections

  private func accept() {
    guard let listener = listener?.number else { return }
    let end = now + Self.acceptPiece  // bounded: seconds in floating point
    for turn in 1..<4096 {
      if turn % 64 == 0, now > end { return }
      let number = allocs_accept(listener)
      guard number >= 0 else {
        switch 0 &- number {
        case EAGAIN: return
        case EINTR, ECONNABORTED: continue
        default: return pause(listener, 0 &- number)
        }
      }
      let socket = UnixSocket(adopting: number)
      guard let peer = try? socket.peer() else { continue }
      lastCaller = (peer.userID, peer.processID)
      admit(Descriptor(adopting: socket.release()), of: peer.userID)
    }
  }

  /// Connections wait in the socket's queue while descriptors or memory are short.
  private func pause(_ listener: Int32, _ code: Int32) {
    figures[.connectionsDelayed] &+= 1
    if now - lastWarning > 10 {
      log(.warning, "cannot accept connections: \(systemWords(code)); they wait — raise the limit of open files")
      lastWarning = now
    }
    remove(listener)
    listenerPausedUntil = now + 0.01
  }

  func admit(_ connection: consuming Descriptor, of user: UInt32) {
    let now = now
    guard shares[.user(user), default: UserShares(at: now)].connections.take(at: now) else {
      return refuse(connection, of: user, Refusal.tooFast, isFlood: true)
    }
    guard isPrivileged else { return hand(connection, of: user, to: .user(geteuid())) }
    makeDirectory(of: user)
    guard user == 0 else { return hand(connection, of: user, to: .user(user)) }
    switch FirstLine.peek(connection.number) {
    case .ended: return
    case .partial: wait(for: connection)
    case let line: hand(connection, of: 0, to: key(of: line))
    }
  }

  /// Makes a user's directory of segments, where users have such directories: the user's next program puts its segment
  /// there.
  private func makeDirectory(of user: UInt32) {
    guard makesDirectories, !usersWithDirectory.contains(user) else { return }
    if usersWithDirectory.count > 10_000 { usersWithDirectory = [] }
    usersWithDirectory.insert(user)
    do throws(Complaint) {
      if let path = try SharedDirectories.makeDirectory(ofUser: user) { watch.watchDirectory(path) }
    } catch {
      log(.warning, "\(error)", ("uid", "\(user)"))
    }
  }

  private func wait(for connection: consuming Descriptor) {
    if waiting.count >= Self.waitingLimit, let oldest = waiting.values.min(by: { $0.until < $1.until }) {
      finish(oldest, .gatherer)
    }
    let end = now + Self.firstLinePatience  // bounded: seconds in floating point
    let waitingConnection = WaitingConnection(connection, until: end)
    let number = waitingConnection.connection.number
    waiting[number] = waitingConnection
    // Each piece of the line wakes the loop once: a piece that stays where it is wakes it no more.
    add(number, .firstLine(waitingConnection), edge: true)
    wake()
  }

  private func resume(_ connection: WaitingConnection) {
    switch FirstLine.peek(connection.connection.number) {
    case .partial: return
    case .ended: finish(connection, nil)
    case let line: finish(connection, key(of: line))
    }
  }

  private func finish(_ connection: WaitingConnection, _ key: WorkerKey?) {
    let number = connection.connection.number
    remove(number)
    waiting[number] = nil
    guard let key else { return }
    // The original goes with `connection`.
    let copy = fcntl(number, F_DUPFD_CLOEXEC, 0)
    if copy >= 0 { hand(Descriptor(adopting: copy), of: 0, to: key) }
  }

  private func key(of line: FirstLine) -> WorkerKey {
    guard case .process(let id, let startTime) = line else { return .gatherer }
    noticed(watch.takeChanges())
    // Root's own worker says that there is no such process.
    return .user(watch.owner(ofProcess: id, startTime: startTime) ?? 0)
  }

  /// Hands the connection over, or refuses it.
  private func hand(_ connection: consuming Descriptor, of user: UInt32, to key: WorkerKey) {
    if user != 0 {
      let open = workers[key]?.open.users ?? 0
      // Root, who is called when something is wrong, finds room whatever others hold. So does, where some users hold
      // all connections, whoever has fewer than an equal share of them.
      guard open < options.connectionsOfOneUser || !isPrivileged,
        workers.values.reduce(0, { $0 &+ $1.open.users }) < options.connections
          || isPrivileged && open < options.connections / max(1, workers.count)  // bounded: divided by one at least
      else {
        return refuse(connection, of: user, Refusal.noRoom)
      }
    }
    do throws(Complaint) {
      let worker = try worker(for: key)
      guard worker.channel.send(Message(.connection, value: user == 0 ? 1 : 0), passing: connection.number) == 0 else {
        throw Complaint(.shortage, what: "your worker takes no connections at present", advice: "try again in a second")
      }
      worker.sent &+= 1
      if user == 0 { worker.open.root &+= 1 } else { worker.open.users &+= 1 }
      worker.lastUse = now
      // The worker may have closed it already.
      PassedRights.close(connection)
    } catch {
      refuse(connection, of: user, Refusal(status: 503, what: error.what, advice: error.advice).bytes)
    }
  }

  /// Tells the other side why, without waiting for a request, and closes the connection. Whoever has been told a
  /// thousand times isn't told again, and who goes on all the same can't connect for a while.
  private func refuse(
    _ connection: consuming Descriptor, of user: UInt32, _ answer: [UInt8], isFlood: Bool = false
  ) {
    figures[.connectionsRefused] &+= 1
    if shares[.user(user)]?.refusals.take(at: now) == true {
      _ = answer.withUnsafeBytes { allocs_send_now(connection.number, $0.baseAddress, $0.count) }
    } else if isFlood, isPrivileged {
      switch barred.flooded(by: user, at: now) {
      case .barred(let time):
        figures[.usersBarred] &+= 1
        log(.warning, "a user who connects without end can't connect for \(time) s", ("uid", "\(user)"))
        wake(in: time)
      case .failed(let why): log(.warning, "nobody can be kept from connecting: \(why)", ("uid", "\(user)"))
      case .passed: break
      }
    }
    PassedRights.close(connection, isUntouched: true)
  }

  // MARK: segments

  private func takeChanges() { noticed(watch.takeChanges()) }

  /// Processes of these users have begun or ended.
  func noticed(_ owners: Set<UInt32>) {
    guard !owners.isEmpty, stopsAt == nil else { return }
    owedLooks.formUnion(owners)
    sendLooks(at: now)
    // Live users whose worker was gone: with events exported, their worker must be there.
    if options.exportsEvents {
      for owner in owners where watch.isLive(ofUser: owner) { startForExport(owner) }
    } else {
      planKeeping(owners)
    }
  }

  /// Tells workers to look, at once, but not more often than they may need.
  private func sendLooks(at now: Double) {
    guard !owedLooks.isEmpty, now >= nextLooks else { return }
    nextLooks = now + 0.02
    for owner in owedLooks { sendLook(to: owner) }
    owedLooks = []
  }

  // MARK: signals

  private func takeSignals() {
    var information = signalfd_siginfo()
    while read(signals.number, &information, MemoryLayout<signalfd_siginfo>.size) > 0 {
      switch Int32(clamping: information.ssi_signo) {
      case SIGCHLD: reap()
      case SIGHUP:
        log(
          .info,
          "SIGHUP: there is nothing to read again, as all options are given at the start; looking for segments")
        usersWithDirectory = []
        watch.lookAtAll()
      default: beginToStop()
      }
    }
    reap()
  }

  private func beginToStop() {
    guard stopsAt == nil else { return }
    stopsAt = now + Self.stopPatience  // bounded: seconds in floating point
    Notification.stopping.send()
    if let number = listener?.number { remove(number) }
    listener = nil
    // The name goes at once: who comes later is told that there is no server, and doesn't wait.
    socket = nil
    for connection in Array(waiting.values) { finish(connection, nil) }
    for worker in Array(workers.values) { stop(worker) }
    nextTick = 0
  }

  private static func blockSignals() -> Int32 {
    var set = sigset_t()
    sigemptyset(&set)
    for number in [SIGTERM, SIGINT, SIGHUP, SIGCHLD] { sigaddset(&set, number) }
    sigprocmask(SIG_BLOCK, &set, nil)
    return signalfd(-1, &set, Int32(SFD_CLOEXEC | SFD_NONBLOCK))
  }
}
