// Program headers and notes of ELF files: this program's own, cut and damaged ones.

import TestSupport
import Testing

@testable import Answers

@Suite("ELF files", .bounded)
struct ELFFilesTests {
  private static let header = Array((readFile("/proc/self/exe") ?? []).prefix(8192))

  @Test("the layout of this program is the one that it is mapped with")
  func own() throws {
    let layout = try #require(ELFFiles.layout(ofHeader: Self.header))
    let maps = ProcessMaps(text: try #require(readFile("/proc/self/maps")))
    let first = try #require(maps.mappings.first { $0.isFile && $0.offset == 0 })
    let last = try #require(maps.mappings.last { $0.inode == first.inode })
    #expect(layout.end > layout.first)
    #expect(first.start + (layout.end - layout.first) >= last.end - 4096)
  }

  @Test("no cut and no flipped byte of a header does harm")
  func damaged() {
    for size in 0..<1024 { _ = ELFFiles.layout(ofHeader: Array(Self.header.prefix(size))) }
    #expect(ELFFiles.layout(ofHeader: []) == nil)
    #expect(ELFFiles.layout(ofHeader: Array("#!/bin/sh\n".utf8)) == nil)
    var generator = RandomNumbers()
    var understood = 0
    for _ in 0..<2000 {
      var bytes = Self.header
      for _ in 0..<8 {
        bytes[Int.random(in: 0..<1024, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
      }
      guard let layout = ELFFiles.layout(ofHeader: bytes) else { continue }
      understood += 1
      #expect(layout.notes.allSatisfy { $0.count <= 1 << 16 })
    }
    #expect(understood > 100, "\(understood) of 2000 were still headers")
  }

  @Test("the build id among notes")
  func notes() {
    let other: [UInt8] = [4, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0] + Array("GNU\0".utf8) + [1, 2, 3, 4, 5, 0, 0, 0]
    let id: [UInt8] = [4, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0] + Array("GNU\0".utf8) + [0xAA, 0xBB, 0xCC, 0]
    #expect(ELFFiles.buildID(inNotes: other + id) == [0xAA, 0xBB, 0xCC])
    #expect(ELFFiles.buildID(inNotes: other).isEmpty)
    for size in 0..<(other + id).count - 1 {
      #expect(ELFFiles.buildID(inNotes: Array((other + id).prefix(size))).isEmpty)
    }
    #expect(ELFFiles.buildID(inNotes: [UInt8](repeating: 0xFF, count: 64)).isEmpty)
  }
}
