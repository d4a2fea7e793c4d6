// SPDX-License-Identifier: Apache-2.0
// The files of a live process, by the kernel's links in /proc/PID. The links are good while the process lives, for
// callers that may trace it, as root or the process's user may; map_files takes root.
//
// Root reads files here for the process's user, so a file must be one that this user may read.

import Bounds
import ByteText
import FileFacts
import Glibc

/// /proc/PID of one process, opened once: a later process of the same id is not meant.
struct ProcessFiles: ~Copyable {
  private let directory: Int32
  private let process: ModuleReference.Process
  /// Paths below /proc/PID that show the process's memory: its own, and a live task's, should the first thread have
  /// ended.
  private static let taskLimit = 16
  /// Names of a folder that are looked at: a process has at most so many mappings and tasks unless its limits were
  /// raised.
  private static let nameLimit = 1 << 17

  /// Nil if there is no process of this id.
  init?(_ process: ModuleReference.Process) {
    let descriptor = Glibc.open("/proc/\(process.id)", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    directory = descriptor
    self.process = process
  }

  deinit { close(directory) }

  /// The file that the process knows as `path`.
  func file(atPath path: ForeignText) -> ObjectFile? { firstTask { open("\($0)root\(path)", isMapped: false) } }

  /// The file that it executes.
  var executable: ObjectFile? { isSameProcess ? firstTask { open("\($0)exe") } : nil }

  /// The file of the mapping that begins at `address`.
  func file(mappedAt address: UInt64) -> ObjectFile? {
    guard isSameProcess else { return nil }
    let prefix = String(address, radix: 16) + "-"
    guard let name = names(in: "map_files", where: { $0.hasPrefix(prefix) }).first else { return nil }
    return open("map_files/\(name)")
  }

  /// The process's /tmp/perf-PID.map (CodeMap.swift), if it is a regular file of the process's own user: no link. `id`:
  /// the process's own, as it knows it.
  func codeMap(of id: Int32) -> RegularFile? {
    guard isSameProcess else { return nil }
    // O_PATH, which Swift's Glibc module leaves out (asm-generic/fcntl.h): a link is looked at, and not followed.
    let placeOnly: Int32 = 0o10000000
    let place = openat(directory, "root/tmp/perf-\(id).map", placeOnly | O_NOFOLLOW | O_CLOEXEC)
    guard place >= 0 else { return nil }
    defer { close(place) }
    guard let file = try? RegularFile(place: place, sizeLimit: CodeMap.sizeLimit), file.ownerID == process.ownerID,
      Self.isReadable(file, by: process.ownerID)
    else { return nil }
    return file
  }

  /// A file that the process has mapped with permission to execute, by the name that jitdump files have.
  struct Marker {
    /// As the process knows it.
    var path: ForeignText
    var inode: UInt64
  }

  /// Bytes of the list of mappings that are read: 100,000 mappings.
  private static let listLimit = 10 << 20

  /// The last mapping of a jit-PID.dump; `id`: the process's own.
  func jitMarker(of id: Int32) -> Marker? {
    let name = Array("/jit-\(id).dump\n".utf8)
    var found: Marker?
    readMappings { lines in
      if let line = Self.line(endingWith: name, in: lines) { found = Self.marker(line) ?? found }
      return true
    }
    return found
  }

  /// Whether the process has mapped a file of this number with permission to execute.
  private func executes(_ inode: UInt64) -> Bool {
    var isFound = false
    readMappings { lines in
      for line in lines.split(separator: 0x0A) {
        let fields = line.split(separator: UInt8(ascii: " "), maxSplits: 5)
        guard fields.count == 6, fields[1].dropFirst(2).first == UInt8(ascii: "x") else { continue }
        isFound = isFound || UInt64(String(decoding: fields[4], as: UTF8.self)) == inode
      }
      return !isFound
    }
    return isFound
  }

  /// Calls `takes` with whole lines of the list of mappings until it returns false.
  private func readMappings(_ takes: (ArraySlice<UInt8>) -> Bool) {
    guard isSameProcess else { return }
    let descriptor = openat(directory, "maps", O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return }
    defer { close(descriptor) }
    var (rest, taken): ([UInt8], Int) = ([], 0)
    var meter = BudgetMeter(interval: 1)
    while meter.goesOn(), taken < Self.listLimit {
      let piece = [UInt8](unsafeUninitializedCapacity: 64 << 10) { buffer, count in
        count = max(0, read(descriptor, buffer.baseAddress, buffer.count))
      }
      guard !piece.isEmpty else { break }
      taken &+= piece.count
      rest += piece
      guard let end = rest.lastIndex(of: 0x0A) else { continue }
      guard takes(rest[...end]) else { return }
      rest.removeFirst(end &+ 1)  // bounded: a place in the array, and one
    }
  }

  /// The last line with such an end.
  private static func line(endingWith name: [UInt8], in lines: ArraySlice<UInt8>) -> ArraySlice<UInt8>? {
    guard lines.count >= name.count, lines.firstRange(of: name) != nil else { return nil }
    return lines.split(separator: 0x0A).last { line in
      line.count >= name.count && line.reversed().starts(with: name.dropLast().reversed())
    }
  }

  /// Of `7f12705e2000-7f12705e3000 r-xp 00000000 fe:00 8423591     /tmp/jit-8294.dump`.
  private static func marker(_ line: ArraySlice<UInt8>) -> Marker? {
    let fields = line.split(separator: UInt8(ascii: " "), maxSplits: 5)
    guard fields.count == 6, fields[1].dropFirst(2).first == UInt8(ascii: "x"),
      let inode = UInt64(String(decoding: fields[4], as: UTF8.self)), inode != 0
    else { return nil }
    let path = fields[5].drop { $0 == UInt8(ascii: " ") }
    guard path.first == UInt8(ascii: "/"), path.count < RegularFile.pathLimit else { return nil }
    return Marker(path: ForeignText(reversibly: path), inode: inode)
  }

  /// The file of a marker, if it is that very file, and a regular one of the process's own user.
  func jitDump(_ marker: Marker) -> RegularFile? {
    guard isSameProcess else { return nil }
    let placeOnly: Int32 = 0o10000000
    let place = openat(directory, ForeignText("root\(marker.path)").originalPath, placeOnly | O_NOFOLLOW | O_CLOEXEC)
    guard place >= 0 else { return nil }
    defer { close(place) }
    guard let file = try? RegularFile(place: place), file.state.inode == marker.inode,
      file.ownerID == process.ownerID, Self.isReadable(file, by: process.ownerID)
    else { return nil }
    return file
  }

  /// `isMapped`: the kernel's own link to what the process has mapped, not a path.
  private func open(_ path: ForeignText, isMapped: Bool = true) -> ObjectFile? {
    guard let file = try? RegularFile(path: path, in: directory), Self.isReadable(file, by: process.ownerID),
      isMapped || file.isTrusted || executes(file.state.inode)
    else { return nil }
    return ObjectFile(file, path: "/proc/\(process.id)/\(path)")
  }

  /// Whether user `id` may read a file, as far as the permissions for its owner and for all tell. Who is not root is
  /// told by the kernel.
  private static func isReadable(_ file: borrowing RegularFile, by id: UInt32) -> Bool {
    if id == 0 || geteuid() != 0 { return true }
    return file.mode & (id == file.ownerID ? S_IRUSR : S_IROTH) != 0
  }

  private func firstTask<Found>(_ body: (String) -> Found?) -> Found? {
    if let found = body("") { return found }
    // Of a process whose first thread has ended, only its other threads show what it is.
    var meter = BudgetMeter(interval: 1)
    for name in names(in: "task", where: { $0 != String(process.id) }).prefix(Self.taskLimit) where meter.goesOn() {
      if let found = body("task/\(name)/") { return found }
    }
    return nil
  }

  private func names(in folder: String, where isWanted: (String) -> Bool) -> [String] {
    let descriptor = openat(directory, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { return [] }
    guard let stream = fdopendir(descriptor) else {
      close(descriptor)
      return []
    }
    defer { closedir(stream) }
    var names: [String] = []
    var meter = BudgetMeter(interval: 64)
    while meter.goesOn(), names.count < Self.nameLimit, let entry = readdir(stream) {
      let name = withUnsafeBytes(of: entry.pointee.d_name) { bytes in
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      if name.first != ".", isWanted(name) { names.append(name) }
    }
    return names
  }

  /// Whether the process is the one that is meant, and no later one of its id.
  var isSameProcess: Bool {
    let file = openat(directory, "stat", O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return false }
    defer { close(file) }
    var text = [UInt8](repeating: 0, count: 1024)
    let count = read(file, &text, text.count)
    guard count > 0, let name = text[..<count].lastIndex(of: UInt8(ascii: ")")) else { return false }
    // Field 3 follows the name.
    let fields = text[..<count][name...].split(separator: UInt8(ascii: " "))
    return fields.count > 20 && UInt64(String(decoding: fields[20], as: UTF8.self)) == process.startTime
  }
}
