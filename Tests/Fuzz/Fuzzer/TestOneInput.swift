// What libFuzzer calls; its library wants a function of this name also where it is handed one.

import FuzzTargets

@_cdecl("LLVMFuzzerTestOneInput")
func testOneInput(_ data: UnsafePointer<UInt8>?, _ size: Int) -> CInt {
  target.run(Array(UnsafeBufferPointer(start: data, count: size))[...])
  return 0
}
