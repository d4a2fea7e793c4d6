// SPDX-License-Identifier: Apache-2.0
// How the broker keeps its workers: starts them when somebody asks, and again when they fail; believes their messages
// as far as these concern their own users; asks whether they still live; and lets them go.

import CBroker
import Confinement
import Glibc
import SegmentFiles
import SegmentWatch
import SystemAccess

extension Broker {
  /// Seconds between two pings of a worker.
  static let pingInterval = 2.0
  /// Seconds between two looks of a worker at the files of a user's live processes, where none runs.
  static let keepingInterval = 600.0

  // MARK: starting

  /// The worker of `key`, which is started if there is none.
  func worker(for key: WorkerKey) throws(Complaint) -> Worker {
    if let worker = workers[key] { return worker }
    guard stopsAt == nil else { throw Complaint(.shortage, what: "the server stops", advice: "try again later") }
    let now = now
    // Those that can't be ended, as they wait for a file system of their user's, stay few.
    let isStuck = leaving.values.filter { $0.key == key }.count >= 4
    let wait = isStuck ? BackOff.longest : shares[key, default: UserShares(at: now)].backOff.wait(at: now)
    guard wait == 0 else {
      throw Complaint(
        .shortage, what: "the \(key) has failed, and starts anew in \(Int64(exactly: wait.rounded(.up)) ?? 0) s",
        advice: "try again then; the server's log says more")
    }
    // What root asks about its own processes, and about all, is answered whoever else is served.
    guard key.isRoots || workers.keys.count(where: { !$0.isRoots }) < options.workers else {
      // The least recently used worker without a connection is asked to go.
      let idle = workers.values.filter { $0.open == (0, 0) && !$0.key.isRoots }
      if let oldest = idle.min(by: { $0.lastUse < $1.lastUse }) { stop(oldest) }
      throw Complaint(.shortage, what: "too many users are served at present", advice: "try again in a second")
    }
    do throws(Complaint) {
      let worker = try Worker.start(
        key, isPrivileged: isPrivileged, group: group(of: key), arguments: options.arguments,
        listener: key == .front ? options.front?.listener : nil, at: now)
      place(worker)
      workers[key] = worker
      add(worker.channel.descriptor, .channel(worker))
      add(worker.log.number, .log(worker))
      figures[.workersStarted] &+= 1
      figures[.workers] = UInt64(workers.count + leaving.count)
      log(.debug, "worker started", ("worker", "\(key)"), ("pid", "\(worker.processID)"))
      wake()
      return worker
    } catch {
      shares[key]?.backOff.failed(at: now, started: now)
      throw error
    }
  }

  /// The group that a user's worker has if the system doesn't know the user: the kernel shows a process's mappings to
  /// those of its user and group alone.
  private func group(of key: WorkerKey) -> UInt32? {
    guard isPrivileged, case .user(let id) = key, id != 0 else { return nil }
    return watch.group(ofUser: id, caller: lastCaller?.user == id ? lastCaller?.process : nil)
  }

  /// Starts the front where there is to be one and is none.
  func startFront() {
    guard let front = options.front, workers[.front] == nil, let worker = try? worker(for: .front) else { return }
    worker.channel.send(Message(.token, text: Array(front.token.utf8)))
  }

  /// Starts the worker of a user whose processes' events are to be exported.
  func startForExport(_ owner: UInt32) {
    let key = WorkerKey.user(owner)
    guard workers[key] == nil, stopsAt == nil else { return }
    if (try? worker(for: key)) != nil { sendLook(to: owner) }
  }

  func sendLook(to owner: UInt32) {
    if let worker = workers[.user(owner)] { worker.channel.send(Message(.look)) }
  }

  /// Has the files of processes that have begun looked at soon, and those of all live processes every now and then.
  func planKeeping(_ changed: Set<UInt32>) {
    let now = now
    let live = watch.liveOwners
    dueKeeping = dueKeeping.filter { live.contains($0.key) }
    lastKeeping = lastKeeping.filter { now - $0.value < Self.keepingInterval }  // bounded: seconds in floating point
    for owner in live where workers[.user(owner)] == nil && dueKeeping[owner] == nil {
      if lastKeeping[owner] == nil { dueKeeping[owner] = now + 2 }  // bounded: seconds in floating point
    }
    if !dueKeeping.isEmpty { wake() }
  }

  /// One worker at a time, as none of these looks is urgent.
  private func keep(at now: Double) {
    guard let (owner, _) = dueKeeping.first(where: { $0.value <= now }) else { return }
    dueKeeping[owner] = nil
    lastKeeping[owner] = now
    if workers[.user(owner)] == nil, (try? worker(for: .user(owner))) != nil { sendLook(to: owner) }
  }

  // MARK: tending

  func tendWorkers(at now: Double) {
    startFront()
    // bounded: seconds in floating point, and counts of whole ones
    for worker in workers.values {
      if let ping = worker.ping {
        // Where many workers start at once, each takes long.
        let patience = options.workerPatience * (worker.hasAnswered ? 1 : 3)
        if now - ping.time >= patience {
          kill(worker, "it has not answered for \(Int64(exactly: patience.rounded()) ?? 0) s")
        } else if ping.number == .max, worker.channel.send(Message(.ping, number: worker.pings)) == 0 {
          worker.ping = (worker.pings, ping.time)
        }
      } else if now - worker.started >= Double(worker.pings) * Self.pingInterval {
        worker.pings = UInt64(max(0, (now - worker.started) / Self.pingInterval)) + 1
        // A full channel is no answer either.
        let isSent = worker.channel.send(Message(.ping, number: worker.pings)) == 0
        worker.ping = (isSent ? worker.pings : .max, now)
        watchProcessorTime(of: worker)
      }
    }
    for worker in workers.values where worker.isLogPaused {
      worker.isLogPaused = false
      add(worker.log.number, .log(worker))
    }
    let patience = Self.stopPatience
    for worker in leaving.values {
      if let stopped = worker.stopped, now - stopped >= patience {  // bounded: seconds in floating point
        kill(worker, "it has not stopped for \(patience) s")
      }
    }
    if stopsAt == nil { keep(at: now) }
    for (user, count) in watch.takeDroppedLines() {
      shares[.user(user), default: UserShares(at: now)].linesDropped &+= count
      figures[.logLinesDropped] &+= UInt64(clamping: count)
    }
    for (key, share) in shares where share.linesDropped > 0 {
      log(.warning, "lines of the log were dropped", ("about", "\(key)"), ("lines", "\(share.linesDropped)"))
      shares[key]?.linesDropped = 0
    }
  }

  /// A worker that goes on using much of a processor gives way to others; one that uses little comes before them. Much
  /// is less than a whole one: where others want the processors too, it gets a part only, however much it wants.
  private func watchProcessorTime(of worker: Worker) {
    guard let ticks = worker.processorTicks() else { return }
    let second = Double(max(1, sysconf(Int32(_SC_CLK_TCK))))
    // The part of the time since the last ping.
    let part = Double(ticks &- worker.ticks) / (second * Self.pingInterval)
    worker.ticks = ticks
    worker.busyLooks = part >= 0.4 ? worker.busyLooks &+ 1 : 0
    let share: ProcessorShare = worker.busyLooks >= 2 ? .low : part <= 0.25 ? .light : .usual
    if share != worker.share, setShare(of: worker, share) { worker.share = share }
  }

  func stop(_ worker: Worker) {
    worker.channel.send(Message(.stop))
    worker.stopped = now
    workers[worker.key] = nil
    leaving[worker.processID] = worker
    wake(in: 0.1)
  }

  private func kill(_ worker: Worker, _ why: String) {
    if worker.stopped == nil || stopsAt == nil {
      log(.error, "worker killed: \(why)", ("worker", "\(worker.key)"), ("pid", "\(worker.processID)"))
    }
    figures[.workersKilled] &+= 1
    kill(worker)
    // Its end is noticed by SIGCHLD. Until then it is not killed again, and gets no more connections.
    worker.ping = nil
    worker.pings = .max
    worker.stopped = .infinity
    workers[worker.key] = nil
    leaving[worker.processID] = worker
    remove(worker.channel.descriptor)
    if stopsAt == nil {
      shares[worker.key, default: UserShares(at: now)].backOff.failed(at: now, started: worker.started)
    }
  }

  /// Takes the ends of workers.
  func reap() {
    var status: Int32 = 0
    while true {
      let processID = waitpid(-1, &status, WNOHANG)
      if processID < 0, errno == EINTR { continue }
      guard processID > 0 else { return }
      if let worker = leaving.removeValue(forKey: processID) {
        forget(worker)
        log(.debug, "worker stopped", ("worker", "\(worker.key)"), ("pid", "\(processID)"))
      } else if watch.childEnded(processID) {
        continue
      } else if let worker = workers.values.first(where: { $0.processID == processID }) {
        workers[worker.key] = nil
        forget(worker)
        figures[.workersFailed] &+= 1
        shares[worker.key, default: UserShares(at: now)].backOff.failed(at: now, started: worker.started)
        let ending = ProcessEnding(waitStatus: status).map { "\($0)" } ?? "\(status)"
        log(
          .error, "worker failed: its connections are broken, and the next one starts it anew",
          ("worker", "\(worker.key)"), ("pid", "\(processID)"), ("ending", ending))
      }
      figures[.workers] = UInt64(workers.count + leaving.count)
    }
  }

  private func forget(_ worker: Worker) {
    takeLog(of: worker)
    if workers[worker.key] == nil { cgroups?.remove(userID(of: worker.key)) }
    if !worker.line.isEmpty { copy(worker.line[...], of: worker) }
    remove(worker.channel.descriptor)
    remove(worker.log.number)
    openings = openings.filter { $0.value.worker !== worker }
    if worker.key == .opener {
      // The requests that it had are answered, so that nobody waits for ever.
      for (_, opening) in openings {
        opening.worker.channel.send(
          Message(.destination, number: opening.number, text: Array("the opener of destinations has failed".utf8)))
      }
      openings = [:]
    }
  }

  // MARK: the log

  func takeLog(of worker: Worker) {
    guard worker.pieces.take(at: now) else {
      worker.isLogPaused = true
      return remove(worker.log.number)
    }
    var bytes = [UInt8](repeating: 0, count: 8192)
    let count = read(worker.log.number, &bytes, bytes.count)
    if count == 0 { return remove(worker.log.number) }
    guard count > 0 else { return }
    worker.line.append(contentsOf: bytes[..<count])
    var rest = worker.line[...]
    while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
      copy(rest[..<end], of: worker)
      rest = rest[end...].dropFirst()
    }
    // A line without an end is copied in pieces.
    while rest.count > Self.lineLimit {
      copy(rest.prefix(Self.lineLimit), of: worker)
      rest = rest.dropFirst(Self.lineLimit)
    }
    worker.line = Array(rest)
  }

  private static let lineLimit = 1000

  private func copy(_ line: ArraySlice<UInt8>, of worker: Worker) {
    let now = now
    guard !line.isEmpty else { return }
    guard shares[worker.key, default: UserShares(at: now)].lines.take(at: now) else {
      shares[worker.key]?.linesDropped &+= 1
      figures[.logLinesDropped] &+= 1
      return
    }
    log.line(line.prefix(Self.lineLimit), from: "\(worker.key)")
  }

  // MARK: messages

  func takeMessages(of worker: Worker) {
    // The other workers have their turn after so many.
    for _ in 0..<32 {
      switch worker.channel.receive(takesDescriptor: worker.key == .opener, waits: false) {
      case .nothing: return
      case .ended:
        // It ends, or has closed its channel: then it is of no use.
        remove(worker.channel.descriptor)
        if worker.stopped == nil { kill(worker) }
        return
      case .malformed: return kill(worker, "it sent what is no message")
      case .message(let message, let descriptor):
        let passed = descriptor.map { Descriptor(adopting: $0) }
        guard worker.messages.take(at: now) else { return kill(worker, "it sends messages without end") }
        handle(message, passed, from: worker)
      }
    }
  }

  private func handle(_ message: Message, _ descriptor: consuming Descriptor?, from worker: Worker) {
    switch (message.kind, worker.key) {
    case (.pong, _):
      if let ping = worker.ping, ping.number == message.number {
        worker.ping = nil
        worker.hasAnswered = true
      }
    case (.closed, _):
      if message.value == 1 {
        worker.open.root = max(0, worker.open.root &- 1)
      } else {
        worker.open.users = max(0, worker.open.users &- 1)
      }
      figures[.connections] = workers.values.reduce(0) { $0 &+ UInt64(clamping: $1.open.root &+ $1.open.users) }
    case (.idle, _):
      // A connection that was sent meanwhile keeps it.
      guard worker.sent == message.number, worker.stopped == nil, !mustStay(worker) else { return }
      stop(worker)
    case (.askDestination, .user(let user)): openDestination(message, for: worker, of: user)
    case (.opened, .opener): forwardDestination(message, descriptor)
    case (.askUsers, .gatherer): tellUsers(message, worker)
    case (.askLink, .gatherer), (.askLink, .front): link(message, worker)
    case (.askFigures, .gatherer): tellFigures(message, worker)
    case (.askFigures, .user) where !isPrivileged: tellFigures(message, worker)
    default: kill(worker, "it sent a message that is not its to send")
    }
  }

  /// Whether the worker is needed though nobody asks it anything.
  private func mustStay(_ worker: Worker) -> Bool {
    guard options.exportsEvents else { return false }
    switch worker.key {
    case .user(let id): return watch.isLive(ofUser: id)
    case .opener, .front: return true
    case .gatherer: return false
    }
  }

  private func tellFigures(_ message: Message, _ worker: Worker) {
    figures[.connections] = workers.values.reduce(0) { $0 &+ UInt64(clamping: $1.open.root &+ $1.open.users) }
    figures[.endingsUnknown] = watch.counts.endingsUnknown
    figures[.segmentsRemoved] = watch.counts.removed
    figures[.segmentsLive] = watch.counts.live
    figures[.segmentsDead] = watch.counts.dead
    figures[.segmentBytes] = watch.counts.bytes
    worker.channel.send(Message(.figures, number: message.number, text: Message.text(figures.values)))
  }

  /// A page of the users: those with segments, and those with a worker, which are marked above bit 32.
  private func tellUsers(_ message: Message, _ worker: Worker) {
    noticed(watch.takeChanges())
    let running = Set(
      workers.keys.compactMap { key -> UInt32? in if case .user(let id) = key { id } else { nil } })
    let all = watch.owners.union(running).sorted()
    let page = all[min(Int(clamping: message.value), all.count)...].prefix(Message.wordLimit)
    worker.channel.send(
      Message(
        .users, number: message.number, value: UInt64(all.count),
        text: Message.text(page.map { UInt64(truncatingIfNeeded: $0) | (running.contains($0) ? 1 << 32 : 0) })))
  }

  /// Makes a connection for the gatherer, to a user's worker, as one of root's; or for the front, which is then one of
  /// the user who started the server, like any that comes to the socket.
  private func link(_ message: Message, _ asker: Worker) {
    var reply = Message(.link, number: message.number)
    do throws(Complaint) {
      guard let ends = MessageChannel.pair(stream: true) else {
        throw Complaint(.shortage, what: "cannot connect to a worker: \(systemWords(errno))", code: errno)
      }
      let near = Descriptor(adopting: ends.0)
      let far = Descriptor(adopting: ends.1)
      if asker.key == .front { admit(far, of: geteuid()) } else { try pass(far, to: message.value) }
      guard asker.channel.send(reply, passing: near.number) == 0 else {
        throw Complaint(.shortage, what: "cannot pass a connection on", advice: "try again in a second")
      }
    } catch {
      reply.text = Array(error.description.utf8)
      asker.channel.send(reply)
    }
  }

  private func pass(_ connection: consuming Descriptor, to user: UInt64) throws(Complaint) {
    guard let user = UInt32(exactly: user) else { throw Complaint(.usage, what: "\(user) is no user") }
    let worker = try worker(for: .user(user))
    guard worker.channel.send(Message(.connection, value: 1), passing: connection.number) == 0 else {
      throw Complaint(.shortage, what: "the \(worker.key) takes no connections at present")
    }
    worker.sent &+= 1
    worker.open.root &+= 1
    worker.lastUse = now
  }

  // MARK: destinations of events

  /// Has a destination opened for the events of one of the user's own live processes.
  private func openDestination(_ message: Message, for worker: Worker, of user: UInt32) {
    func refuse(_ why: String, again: UInt64 = 0) {
      worker.channel.send(Message(.destination, number: message.number, value: again, text: Array(why.utf8)))
    }
    let words = message.words
    guard options.exportsEvents, words.count == 2, let id = Int32(exactly: message.value) else {
      return refuse("events are not exported")
    }
    guard let file = watch.process(id, startTime: words[0], inode: words[1], of: user) else {
      // A worker may see a program that replaces another before the broker has looked.
      return refuse("no such process is known to run", again: 1)
    }
    // A worker that is started anew asks again; a broken one can't make files without end.
    var opened = openedDestinations[file.path] ?? (file.inode, 0)
    if opened.inode != file.inode { opened = (file.inode, 0) }
    guard opened.count < 8 else { return refuse("its destination has been opened often enough") }
    opened.count &+= 1
    if openedDestinations.count > 10_000 {
      openedDestinations = openedDestinations.filter { watch.isLive($0.key, inode: $0.value.inode) }
    }
    openedDestinations[file.path] = opened
    do throws(Complaint) {
      let opener = try self.worker(for: .opener)
      lastOpening &+= 1
      guard openings.count < 10_000,
        opener.channel.send(Message(.open, number: lastOpening, value: UInt64(max(0, id)))) == 0
      else { return refuse("too many destinations are being opened") }
      openings[lastOpening] = (worker, message.number)
    } catch {
      refuse(error.description)
    }
  }

  private func forwardDestination(_ message: Message, _ descriptor: consuming Descriptor?) {
    guard let opening = openings.removeValue(forKey: message.number) else { return }
    let reply = Message(.destination, number: opening.number, text: message.text)
    let passed = descriptor.take()
    if let passed {
      opening.worker.channel.send(reply, passing: passed.number)
    } else {
      opening.worker.channel.send(reply)
    }
  }
}
