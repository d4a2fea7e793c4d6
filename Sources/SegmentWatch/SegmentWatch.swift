// SPDX-License-Identifier: Apache-2.0
// The segments of all users, as the broker knows them: names, owners and states of files. The broker notes with each
// segment how its process ended, as that segment's owner, and has segments of ended processes removed by the retention
// policy (Chores.swift).
//
// Of what is in a file, only the header of fixed size is read, to tell whether the process lives that the file's name
// claims: five of its numbers are compared, and none is followed. It is read with the rights of the user whose
// directory it is in, or of the file's owner where that is known. A common directory of the layout before is the
// exception: a file in it may be anybody's, and is read with root's.

import CProcessEnds
import Glibc
import SegmentFiles
import SystemAccess

/// Follows the directories of segments.
public struct SegmentWatch: ~Copyable {
  /// Segments as of the last looks, and what happened since the start.
  public struct Counts: Sendable {
    public var live: UInt64 = 0
    public var dead: UInt64 = 0
    public var bytes: UInt64 = 0
    public var removed: UInt64 = 0
    public var endingsUnknown: UInt64 = 0
  }

  /// A segment, and whether its process was seen running.
  private struct Known {
    var file: SegmentFile
    var wasSeen: Bool
  }

  /// A look at one directory that has begun.
  private struct Look {
    var scan: DirectoryScan
    var present: Set<String> = []
    /// Seconds that the files of it have taken, beside the scan.
    var time = 0.0
  }

  /// How long one user's lines may be: other users' must be found among them.
  private struct Lines {
    var allowance: Allowance
    var dropped = 0
  }

  private struct Owned {
    var live = 0
    var all = 0
  }

  public private(set) var counts = Counts()
  private let retention: RetentionPolicy
  private let interval: Double
  private let log: Log
  private var endings: Endings
  private var threadEnds: ThreadEnds?
  private var changes: DirectoryWatcher?
  private var marks = SweeperMarks()
  private var chores = Chores()

  private var known: [String: Known] = [:]
  private var byProcess: [Int32: Set<String>] = [:]
  private var byDirectory: [String: Set<String>] = [:]
  private var byOwner: [UInt32: Owned] = [:]

  private var directories: [String] = []
  private var survey: DirectorySurvey?
  private var nextSurvey = 0.0
  /// When each directory is to be looked at, and when it may be at the earliest: a look at a directory that has much in
  /// it, or changes all the time, takes a small part of the time.
  private var due: [String: Double] = [:]
  private var earliest: [String: Double] = [:]
  /// The looks that have begun, in the order of their turns.
  private var looks: [Look] = []
  /// Whether each directory that there was at the start has been looked at: of processes that ended before, nobody asks
  /// how.
  private var isStarted = false
  /// Arrivals that are looked at when they come, and changes that are taken, by directory; and the directories whose
  /// changes are not taken, as there are too many, until then.
  private var arrivals: [String: Allowance] = [:]
  private var takes: [String: Allowance] = [:]
  private var paused: [String: Double] = [:]
  /// Changes that have come and were not looked at for want of time.
  private var pending: ArraySlice<DirectoryChange> = []
  private var lines: [UInt32: Lines] = [:]
  private var wantedSweeps: [UInt32: Set<String>] = [:]
  private var wantedSearches: [UInt32: [SegmentFile]] = [:]
  private var wantedClearings: [UInt32: String] = [:]
  private var lastFailure: [UInt32: String] = [:]
  private var nextChore = 0.0

  /// `watchLimit`: processes of which it is learnt how they end, at a time. `interval`: seconds between two looks at a
  /// directory where nothing else leads to one.
  public init(
    retention: RetentionPolicy, interval: Double, watchLimit: Int, log: Log
  ) throws(Complaint) {
    self.retention = retention
    self.interval = interval
    self.log = log
    endings = try Endings(limit: watchLimit)
    allocs_prefer_latency()
    // The messages of the kernel's process connector come to root alone.
    threadEnds = ThreadEnds()
    directories = SegmentDirectory.searchPaths
    do throws(Complaint) {
      // Root follows the directories of all users, which their programs make there.
      let isOfAll = Self.isOfAll
      changes = try DirectoryWatcher(directories, parents: isOfAll ? ["/dev/shm", "/run/user"] : [])
      log(.info, "watching for segments", ("directories", directories.prefix(100).joined(separator: " ")))
    } catch {
      log(.warning, "\(error); segments are noticed every now and then only")
      changes = nil
    }
    descriptors = [endings.descriptor, changes?.descriptor ?? -1].filter { $0 >= 0 }
  }

  /// Seconds that the changes that have come may take at a time.
  private static let longestTurn = 0.002

  private static var isOfAll: Bool { geteuid() == 0 && getenv("ALLOCS_DIR") == nil }

  private static var now: Double { seconds(of: CLOCK_MONOTONIC) }

  /// The descriptors that are readable when there is something to look at.
  public let descriptors: [Int32]

  // MARK: what comes

  /// Takes changes of directories that have come, as many as can be in little time, and opens each process that has
  /// appeared, at once; those of one directory that are too many are left to the next look. Returns the owners of
  /// processes that have begun or ended.
  public mutating func takeChanges() -> Set<UInt32> {
    let now = Self.now
    var owners = takeEndings()
    if pending.isEmpty { pending = (changes?.changes() ?? [])[...] }
    while Self.now - now < Self.longestTurn, let change = pending.popFirst() {  // bounded: seconds in floating point
      switch change {
      case .unknown:
        lookAtAll()
      case .disappeared(let path):
        let directory = Self.directory(of: path)
        plan(directory, at: now)
        count(directory, at: now)
      case .appeared(let path):
        let directory = Self.directory(of: path)
        count(directory, at: now)
        guard path.hasSuffix(".seg") else { continue }
        guard arrivals[directory, default: Allowance(burst: 300, rate: 100, at: now)].take(at: now),
          let (file, isThere) = endings.watchArrival(path, as: Self.actor(inDirectory: directory))
        else {
          plan(directory, at: now)
          continue
        }
        owners.insert(file.ownerID)
        if file.isLive { _ = take(file) }
        if isThere { known[path]?.wasSeen = true }
        if !file.isLive || !isThere { plan(directory, at: now) }
      }
    }
    return owners
  }

  /// Counts a change, and takes no more of a directory that has too many.
  private mutating func count(_ directory: String, at now: Double) {
    guard paused[directory] == nil,
      !takes[directory, default: Allowance(burst: 4000, rate: 1000, at: now)].take(at: now)
    else { return }
    paused[directory] = now + 1  // bounded: seconds in floating point
    changes?.pause(directory)
    plan(directory, at: now)
  }

  private mutating func resume(at now: Double) {
    for (directory, time) in paused where time <= now {
      paused[directory] = nil
      changes?.resume(directory)
      plan(directory, at: now)
    }
  }

  private mutating func takeEndings() -> Set<UInt32> {
    var owners: Set<UInt32> = []
    for (file, ending) in endings.ended() {
      note(ending ?? threadEnds?.ending(of: file), file)
      owners.insert(file.ownerID)
      plan(Self.directory(of: file.path), at: Self.now)
    }
    return owners
  }

  /// Takes the end of a child; false if it is none of this watch.
  public mutating func childEnded(_ child: Int32) -> Bool {
    guard let done = chores.ended(child) else { return false }
    nextChore = 0
    switch done.work {
    case .sweep(_, let directories):
      guard done.numbers.count == 2 else {
        log(.debug, "a sweep took too long, and goes on later", ("uid", "\(done.user)"))
        break
      }
      counts.removed &+= done.numbers[0]
      if done.numbers[1] > 0, lastFailure[done.user] != done.text {
        if lastFailure.count > 1000 { lastFailure = [:] }
        lastFailure[done.user] = done.text
        log(
          .warning, "cannot remove the segment of a dead process: \(done.text)", ("uid", "\(done.user)"),
          ("segments", "\(done.numbers[1])"))
      }
      if done.numbers[0] > 0 { for directory in directories { plan(directory, at: Self.now) } }
    case .search(let file):
      let id = done.numbers.first.flatMap { Int32(exactly: $0) } ?? 0
      if id <= 0 || endings.watch(file, foundAs: id) != nil {
        missed("how the process ends is not known", .notVisible, file)
      }
    case .clear(let directory):
      guard done.numbers.first != 0 else { break }
      log(
        .warning, "removed what is no segment, as \(SharedDirectories.ofRoot) was nearly full", ("uid", "\(done.user)"),
        ("directory", directory), ("files", done.numbers.first.map { "\($0)" } ?? "not all"))
    }
    return true
  }

  // MARK: looks

  /// When there is more to do: in the past while a look goes on.
  public var nextWork: Double {
    if !looks.isEmpty || survey != nil || !pending.isEmpty { return 0 }
    var time = min(nextSurvey, due.values.min() ?? .infinity, paused.values.min() ?? .infinity)
    if !wantedSweeps.isEmpty || !wantedSearches.isEmpty || !wantedClearings.isEmpty { time = min(time, nextChore) }
    return time
  }

  /// Has everything looked at soon.
  public mutating func lookAtAll() {
    let now = Self.now
    nextSurvey = min(nextSurvey, max(now + 0.05, earliest[""] ?? 0))
    for directory in directories { plan(directory, at: now) }
  }

  /// Has it looked soon which directories there are.
  public mutating func lookAtDirectories() { nextSurvey = min(nextSurvey, max(Self.now, earliest[""] ?? 0)) }

  /// Watches a user's directory that was made just now, at once: the user's first program may not live until the next
  /// look at which directories there are.
  public mutating func watchDirectory(_ path: String) {
    if !directories.contains(path) {
      directories.append(path)
      changes?.watch(directories)
      plan(path, at: Self.now)
    }
    lookAtDirectories()
  }

  private mutating func plan(_ directory: String, at now: Double) {
    due[directory] = min(due[directory] ?? .infinity, max(now + 0.05, earliest[directory] ?? 0))
  }

  /// Looks at everything there is at the start; what there is beyond some seconds of work is left to later.
  public mutating func start() {
    let end = Self.now + 2
    for directory in directories { due[directory] = 0 }
    while Self.now < end {
      _ = work(for: 0.05)
      if isStarted { return }
    }
  }

  /// Does a part of what is to be done, of so many seconds. Returns the owners of processes that have begun or ended.
  public mutating func work(for seconds: Double) -> Set<UInt32> {
    let began = Self.now
    var owners = pending.isEmpty ? takeEndings() : takeChanges()
    resume(at: began)
    lookForDirectories(at: began, until: began + seconds)
    for (directory, time) in due where time <= began && looks.count < 64 {
      guard !looks.contains(where: { $0.scan.path == directory }) else { continue }
      due[directory] = began + interval
      begin(directory)
    }
    // Each directory has its turn, and the last one begins anew with the next call.
    while !looks.isEmpty, Self.now < began + seconds {
      var look = looks.removeFirst()
      let actor = look.scan.actor
      let end = Self.now + seconds / 4
      var found: (files: [SegmentFile], isLast: Bool) = ([], false)
      asUser(actor) { found = look.scan.step(until: end) }
      let scanned = Self.now
      for file in found.files {
        look.present.insert(file.path)
        if take(file) { owners.insert(file.ownerID) }
      }
      look.time += Self.now - scanned  // bounded: seconds in floating point
      if found.isLast { finish(look) } else { looks.append(look) }
    }
    if !isStarted, looks.isEmpty, survey == nil, due.values.allSatisfy({ $0 > began }) { isStarted = true }
    doChores(at: began)
    return owners
  }

  private mutating func lookForDirectories(at now: Double, until end: Double) {
    if survey == nil {
      guard now >= nextSurvey else { return }
      threadEnds?.take()
      guard Self.isOfAll else { return replace(SegmentDirectory.searchPaths, at: now) }
      survey = DirectorySurvey(ofUser: 0)
    }
    guard let places = survey?.step(until: end) else { return }
    survey = nil
    replace(places.map(\.path), at: now)
  }

  private mutating func replace(_ found: [String], at now: Double) {
    nextSurvey = now + interval
    earliest[""] = now + 0.2
    let before = Set(directories)
    directories = found
    changes?.watch(found)
    let kept = Set(found)
    for directory in before.subtracting(kept) {
      (due[directory], earliest[directory], arrivals[directory]) = (nil, nil, nil)
      (takes[directory], paused[directory]) = (nil, nil)
      for path in byDirectory[directory] ?? [] { forget(path) }
    }
    for directory in found where !before.contains(directory) { plan(directory, at: now) }
    for directory in found where due[directory] == nil { plan(directory, at: now + interval) }
    // Root makes files in its own directories only.
    let own = geteuid()
    marks.renew(
      in: found.filter { path in
        guard let place = SharedDirectories.Place(path: path) else { return true }
        return place.isCommon || SharedDirectories.Place.own(ofUser: own).contains(place)
      })
  }

  private mutating func begin(_ directory: String) {
    do {
      if let scan = try DirectoryScan(directory) {
        looks.append(Look(scan: scan))
      } else {
        for path in byDirectory[directory] ?? [] { forget(path) }
      }
    } catch {
      // What is known stays as it is: processes have not ended because nobody could look.
      log(.warning, "\(error)")
      due[directory] = Self.now + 1
    }
  }

  private mutating func finish(_ look: Look) {
    let directory = look.scan.path
    let now = Self.now
    earliest[directory] = now + 9 * (look.scan.time + look.time)  // bounded: seconds in floating point
    for path in (byDirectory[directory] ?? []).subtracting(look.present) {
      // A file that has come meanwhile was not among the names.
      guard !look.scan.hasFile(named: OpenFile.split(path).name) else { continue }
      forget(path)
    }
    if look.scan.hasSurplus, case .ofRoot(let user)? = SharedDirectories.Place(path: directory), geteuid() == 0,
      SharedDirectories.isRootsNearlyFull
    {
      wantedClearings[user] = directory
      nextChore = 0
    }
    var dead: [UInt32: [SegmentFile]] = [:]
    for path in byDirectory[directory] ?? [] {
      guard let file = known[path]?.file, mayBeNoted(file) else { continue }
      dead[file.ownerID, default: []].append(file)
    }
    for (owner, files) in dead
    where look.scan.omitted[owner] != nil || retention.isSweepDue(files, at: seconds(of: CLOCK_REALTIME)) {
      wantedSweeps[owner, default: []].insert(directory)
      nextChore = 0
    }
  }

  private mutating func doChores(at now: Double) {
    guard now >= nextChore else { return }
    nextChore = now + 0.5
    for (owner, directories) in wantedSweeps
    where chores.begin(.sweep(retention, directories: directories.sorted()), for: owner, log, at: now) {
      wantedSweeps[owner] = nil
    }
    for (owner, directory) in wantedClearings
    where chores.begin(.clear(directory: directory), for: owner, log, at: now) {
      wantedClearings[owner] = nil
    }
    for (owner, files) in wantedSearches {
      guard let file = files.last, chores.begin(.search(file), for: owner, log, at: now) else { continue }
      wantedSearches[owner] = files.count > 1 ? Array(files.dropLast()) : nil
    }
  }

  // MARK: segments

  /// Takes a segment as it was found now. Returns whether its process has begun or ended.
  private mutating func take(_ file: SegmentFile) -> Bool {
    let before = keep(file)
    if file.isLive {
      // A program that replaces itself by exec makes another file with the same name.
      guard before?.isLive != true || before?.inode != file.inode else { return false }
      say("process is indexed", file, ("pid", "\(file.processID)"))
      guard mayBeNoted(file) else { return true }
      switch endings.watch(file) {
      case nil: break
      case .tooMany?: missed("cannot learn how the process ends", .tooMany, file)
      case .gone?:
        // A live process that can't be seen here runs in another pid namespace.
        var isLive = false
        asUser(file.ownerID) { isLive = (try? SegmentDirectory.file(at: file.path))?.isLive == true }
        if !isLive, let ending = threadEnds?.ending(of: file) {
          note(ending, file)
        } else if isLive, wantedSearches[file.ownerID, default: []].count < 16 {
          wantedSearches[file.ownerID, default: []].append(file)
          nextChore = 0
        } else {
          missed("how the process ends is not known", isLive ? .notVisible : .notSeen, file)
        }
      case .system(let code)?:
        missed("cannot learn how the process ends: \(systemWords(code))", .notTold, file)
      }
      return true
    }
    // The kernel may have told the process's end meanwhile.
    if endings.isWatching(file.path) { _ = takeEndings() }
    if before?.isLive == true {
      let ending = ProcessEnding(ofSegment: file.path).map { "\($0)" } ?? "unknown"
      say("process ended", file, ("pid", "\(file.processID)"), ("ending", ending))
      return true
    }
    // A process that ended since the last look and was not watched.
    guard isStarted, before == nil, mayBeNoted(file), !endings.isWatching(file.path),
      ProcessEnding(ofSegment: file.path) == nil
    else { return false }
    if let ending = threadEnds?.ending(of: file) {
      note(ending, file)
    } else if UnknownEnding(ofSegment: file.path) == nil {
      missed("how the process ended is not known", .notSeen, file)
    }
    return false
  }

  /// Puts the segment into the tables. Returns what they had at its path.
  private mutating func keep(_ file: SegmentFile) -> SegmentFile? {
    let before = known[file.path]
    if before != nil { forget(file.path) }
    // An arrival counts as seen by what `takeChanges` says.
    let wasSeen = file.isLive || before?.file.inode == file.inode && before?.wasSeen == true
    known[file.path] = Known(file: file, wasSeen: wasSeen)
    byProcess[file.processID, default: []].insert(file.path)
    byDirectory[Self.directory(of: file.path), default: []].insert(file.path)
    byOwner[file.ownerID, default: Owned()].all &+= 1
    if file.isLive {
      byOwner[file.ownerID, default: Owned()].live &+= 1
      counts.live &+= 1
    } else {
      counts.dead &+= 1
    }
    counts.bytes &+= file.allocatedBytes
    return before?.file
  }

  private mutating func forget(_ path: String) {
    guard let file = known.removeValue(forKey: path)?.file else { return }
    Self.remove(path, from: &byProcess, file.processID)
    Self.remove(path, from: &byDirectory, Self.directory(of: path))
    byOwner[file.ownerID]?.all &-= 1
    if file.isLive { byOwner[file.ownerID]?.live &-= 1 }
    if byOwner[file.ownerID]?.all == 0 { byOwner[file.ownerID] = nil }
    if file.isLive { counts.live &-= 1 } else { counts.dead &-= 1 }
    counts.bytes &-= file.allocatedBytes
  }

  private static func remove<Key: Hashable>(_ path: String, from table: inout [Key: Set<String>], _ key: Key) {
    table[key]?.remove(path)
    if table[key]?.isEmpty == true { table[key] = nil }
  }

  private static func directory(of path: String) -> String {
    String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
  }

  // MARK: questions

  /// The owner of the segment of process `id`; nil if there is none.
  public mutating func owner(ofProcess id: Int32, startTime: UInt64?) -> UInt32? {
    func candidates() -> [Known] {
      (byProcess[id] ?? []).compactMap { known[$0] }.filter { startTime == nil || $0.file.startTime == startTime }
    }
    var found = candidates()
    if !found.contains(where: \.file.isLive) {
      // It may have begun, and not been noticed yet.
      for path in SegmentDirectory.pathsOfRunning(processID: id) {
        var file: SegmentFile?
        asUser(Self.actor(inDirectory: Self.directory(of: path))) {
          file = (try? SegmentDirectory.file(at: path)) ?? nil
        }
        if let file { _ = take(file) }
      }
      found = candidates()
    }
    // Whoever has many files of that number has no more to say than others.
    var files: [Known] = []
    for (_, own) in Dictionary(grouping: found, by: \.file.ownerID) {
      let newest = own.sorted {
        ($0.file.isLive ? 1 : 0, $0.wasSeen ? 1 : 0, $0.file.startTime)
          > ($1.file.isLive ? 1 : 0, $1.wasSeen ? 1 : 0, $1.file.startTime)
      }
      files.append(contentsOf: newest.prefix(2))
    }
    let present = files.prefix(256).compactMap { entry -> SegmentFile? in
      var file: SegmentFile?
      asUser(entry.file.ownerID) {
        file = (try? SegmentDirectory.file(at: entry.file.path)) ?? nil
        if let found = file, !found.isLive, !found.hasFittingHeader { file = nil }
      }
      return file
    }
    let seen = Set(files.lazy.filter(\.wasSeen).map(\.file.path))
    return SegmentDirectory.preferred(of: present) { seen.contains($0.path) }?.ownerID
  }

  /// The live process `id` of user `owner`, if it is the one with this start time and this file.
  public func process(_ id: Int32, startTime: UInt64, inode: UInt64, of owner: UInt32) -> SegmentFile? {
    (byProcess[id] ?? []).compactMap { known[$0]?.file }.first {
      $0.isLive && $0.startTime == startTime && $0.inode == inode && $0.ownerID == owner
    }
  }

  /// The live segment at `path`.
  public func isLive(_ path: String, inode: UInt64) -> Bool {
    known[path].map { $0.file.isLive && $0.file.inode == inode } ?? false
  }

  /// The group of the user's processes, by one of them, or by process `caller` of the user's; nil if none tells.
  public func group(ofUser user: UInt32, caller: Int32?) -> UInt32? {
    let ofCaller = caller.flatMap { SegmentDirectory.group(ofProcess: $0, user: user) }
    guard ofCaller == nil, isLive(ofUser: user) else { return ofCaller }
    var tried = 0
    for entry in known.values where entry.file.isLive && entry.file.ownerID == user && tried < 4 {
      tried += 1
      if let group = entry.file.processGroup { return group }
    }
    return nil
  }

  /// All users that have segments, and those with live processes.
  public var owners: Set<UInt32> { Set(byOwner.keys) }
  public var liveOwners: Set<UInt32> { Set(byOwner.lazy.filter { $0.value.live > 0 }.map(\.key)) }
  public func isLive(ofUser user: UInt32) -> Bool { byOwner[user].map { $0.live > 0 } ?? false }

  // MARK: the log

  /// The lines about each user's files that were left out since the last call.
  public mutating func takeDroppedLines() -> [UInt32: Int] {
    let dropped = lines.filter { $0.value.dropped > 0 }.mapValues(\.dropped)
    let now = Self.now
    for user in dropped.keys { lines[user]?.dropped = 0 }
    if lines.count > 1000 {
      lines = lines.filter { entry in
        var allowance = entry.value.allowance
        return !allowance.isFull(at: now)
      }
    }
    return dropped
  }

  /// A line about a file, if its owner has not had too many.
  private mutating func say(_ text: String, _ file: SegmentFile, _ details: (name: String, value: String)...) {
    let now = Self.now
    let isAllowed = lines[
      file.ownerID, default: Lines(allowance: Allowance(burst: 500, rate: 20, at: now))
    ].allowance.take(at: now)
    guard isAllowed else {
      lines[file.ownerID]?.dropped &+= 1
      return
    }
    switch details.count {
    case 1: log(.info, text, details[0], Self.words(file))
    default: log(.info, text, details[0], Self.words(file), details[1])
    }
  }

  private mutating func note(_ ending: ProcessEnding?, _ file: SegmentFile) {
    guard let ending else {
      return missed("how the process ended is not known: that takes Linux 6.15", .notTold, file)
    }
    var failure = EPERM
    asUser(file.ownerID) { failure = ending.note(with: file) }
    // A segment that is gone needs no note.
    guard failure != 0, failure != ENOENT else { return }
    counts.endingsUnknown &+= 1
    log(.debug, "cannot note how the process ended, \(ending): \(systemWords(failure))", Self.words(file))
  }

  private mutating func missed(_ why: String, _ reason: UnknownEnding, _ file: SegmentFile) {
    counts.endingsUnknown &+= 1
    asUser(file.ownerID) { _ = reason.note(with: file) }
    log(.debug, "\(why): \(reason)", Self.words(file))
  }

  /// The user whose rights are enough for the files of a directory, by its path: of a common one, root.
  private static func actor(inDirectory path: String) -> UInt32 {
    switch SharedDirectories.Place(path: path) {
    case .ofRoot(let user)?, .ofSession(let user)?, .inMemory(let user)?: user
    case .common?, .former?, nil: 0
    }
  }

  /// Whether this process may write notes on the segment: only root may, where it belongs to another user.
  private func mayBeNoted(_ file: SegmentFile) -> Bool { geteuid() == 0 || geteuid() == file.ownerID }

  private static func words(_ file: SegmentFile) -> (name: String, value: String) { ("segment", file.path) }
}

/// Does `body` with the rights that `user` has on files; not at all if that can't be.
func asUser(_ user: UInt32, _ body: () -> Void) {
  guard geteuid() == 0, user != 0 else { return body() }
  // setfsuid tells no failure: the second call returns the id that counts now.
  _ = setfsuid(user)
  defer { _ = setfsuid(0) }
  if setfsuid(.max) == Int32(bitPattern: user) { body() }
}

/// The marks by which the server says that it sweeps the directories itself (SweeperMark.swift).
private struct SweeperMarks {
  private final class Holder {
    let mark: SweeperMark
    init(_ mark: consuming SweeperMark) { self.mark = mark }
  }

  private var held: [String: Holder] = [:]

  /// Puts a mark into each of `directories` that has none: also into a directory that was removed and made again.
  mutating func renew(in directories: [String]) {
    held = held.filter { directories.contains($0.key) }
    for directory in directories where held[directory]?.mark.isInPlace != true {
      held[directory] = nil
      if let mark = SweeperMark(in: directory) { held[directory] = Holder(mark) }
    }
  }
}
