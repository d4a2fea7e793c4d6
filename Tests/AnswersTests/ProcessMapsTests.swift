// SPDX-License-Identifier: Apache-2.0
// /proc/PID/maps, ordinary and odd.

import Answers
import ByteText
import Glibc
import TestSupport
import Testing

@Suite("Mappings", .bounded)
struct ProcessMapsTests {
  private func parse(_ text: String) -> ProcessMaps { ProcessMaps(text: Array(text.utf8)) }

  @Test("fields of ordinary lines")
  func ordinary() {
    let maps = parse(
      """
      55d0c0fc0000-55d0c1000000 r-xp 00002000 fe:0a 253911                     /usr/bin/cat
      55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0                          [heap]
      7f0000000000-7f0000001000 rw-p 00000000 00:00 0
      7f0000001000-7f0000002000 rw-s 1f2cc000 00:01 77 /dev/zero (deleted)
      ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]

      """)
    #expect(maps.mappings.count == 5)
    let first = maps.mappings[0]
    #expect(first.start == 0x55d0_c0fc_0000 && first.end == 0x55d0_c100_0000)
    #expect(first.permissions == "r-xp" && first.offset == 0x2000 && first.inode == 253911)
    #expect(first.device == Mapping.Device(major: 0xfe, minor: 0x0a))
    #expect(first.path == "/usr/bin/cat" && !first.isDeleted && first.isFile && !first.isAnonymous)
    #expect(maps.mappings[1].isBreak && maps.mappings[1].path == "[heap]")
    #expect(maps.mappings[2].path == nil && maps.mappings[2].isAnonymous)
    #expect(maps.mappings[3].path == "/dev/zero" && maps.mappings[3].isDeleted)
    #expect(maps.mapping(containing: 0xffff_ffff_ff60_0123)?.path == "[vsyscall]")
  }

  @Test("a mapping holds its first address and not its end; gaps hold none")
  func bounds() {
    let maps = parse("1000-2000 rw-p 0 00:00 0\n2000-3000 r--p 0 00:00 0\n5000-6000 rw-p 0 00:00 0\n")
    #expect(maps.mapping(containing: 0xfff) == nil)
    #expect(maps.mapping(containing: 0x1000)?.start == 0x1000)
    #expect(maps.mapping(containing: 0x1fff)?.start == 0x1000)
    #expect(maps.mapping(containing: 0x2000)?.start == 0x2000)
    #expect(maps.mapping(containing: 0x3000) == nil)
    #expect(maps.mapping(containing: 0x5fff)?.start == 0x5000)
    #expect(maps.mapping(containing: 0x6000) == nil)
    #expect(maps.mapping(containing: .max) == nil)
    #expect(parse("").mapping(containing: 0) == nil)
  }

  @Test(
    "odd paths",
    arguments: [
      ("/tmp/with blanks  in it", "/tmp/with blanks  in it", false),
      ("/tmp/gone (deleted)", "/tmp/gone", true),
      ("/tmp/a (deleted) (deleted)", "/tmp/a (deleted)", true),
      ("/tmp/new\\012line", "/tmp/new\nline", false),
      ("/tmp/back\\slash\\01", "/tmp/back\\slash\\01", false),
      ("/tmp/\u{1F600}é", "/tmp/\u{1F600}é", false),
      ("/memfd:jit (deleted)", "/memfd:jit", true),
    ])
  func paths(written: String, path: String, isDeleted: Bool) {
    let maps = parse("1000-2000 rw-p 00000000 fe:00 99    \(written)\n")
    #expect(maps.mappings.first?.path?.unescaped == path)
    #expect(maps.mappings.first?.isDeleted == isDeleted)
  }

  @Test("a path that is not UTF-8 keeps its bytes, a very long one all of them")
  func bytes() {
    let odd = ProcessMaps(text: Array("1000-2000 rw-p 0 0:0 9 /tmp/".utf8) + [0xFF, 0xC3, 0x28, 0x0A])
    #expect(odd.mappings.first?.path?.originalBytes == Array("/tmp/".utf8) + [0xFF, 0xC3, 0x28])
    let long = "/" + String(repeating: "x", count: 100_000)
    #expect(parse("1000-2000 rw-p 0 0:0 9 \(long)\n").mappings.first?.path?.unescaped == long)
  }

  @Test(
    "a line that does not fit the format is passed over, the others count",
    arguments: [
      "garbage", "1000-2000", "2000-1000 rw-p 0 0:0 0", "1000-1000 rw-p 0 0:0 0", "1000 2000 rw-p 0 0:0 0",
      "x-2000 rw-p 0 0:0 0", "1000-2000 rwxq 0 0:0 0", "1000-2000 rw 0 0:0 0", "1000-2000 rw-p 0 00 0",
      "1000-2000 rw-p 0 0:0 -1", "11112222333344445-2 rw-p 0 0:0 0", "1000-2000 rw-p 0 0:0 99999999999999999999999",
      "1000-2000 rw-p zz 0:0 0", "-", " ", "\u{0}", "1000-2000 rw-p 0 0:0 12abc /x",
    ])
  func odd(line: String) {
    let maps = parse("\(line)\n7000-8000 rw-p 00000000 00:00 0 [heap]\n")
    #expect(maps.mappings.map(\.start) == [0x7000])
  }

  @Test("every cut of a real file is read without harm")
  func cuts() throws {
    let text = try #require(readFile("/proc/self/maps"))
    let whole = ProcessMaps(text: text).mappings
    #expect(whole.count > 10)
    #expect(whole.contains { $0.isMainStack })
    // The first lines, cut at each byte: lines after them are alike.
    for size in 0..<min(text.count, 400) {
      let maps = ProcessMaps(text: Array(text.prefix(size)))
      #expect(maps.mappings.dropLast() == whole.prefix(max(0, maps.mappings.count - 1)))
    }
  }

  @Test("lines out of order are sorted")
  func order() {
    let maps = parse("5000-6000 rw-p 0 0:0 0\n1000-2000 rw-p 0 0:0 0\n")
    #expect(maps.mapping(containing: 0x1000)?.end == 0x2000)
    #expect(maps.mapping(containing: 0x5000)?.end == 0x6000)
  }
}

/// The bytes of a file, whatever size it claims to have; nil if it can't be read.
func readFile(_ path: String) -> [UInt8]? {
  guard let file = fopen(path, "r") else { return nil }
  defer { fclose(file) }
  var bytes: [UInt8] = []
  var piece = [UInt8](repeating: 0, count: 1 << 16)
  while true {
    let count = fread(&piece, 1, piece.count, file)
    if count == 0 { return bytes }
    bytes += piece.prefix(count)
  }
}
