@_silgen_name("probe") func probe(_ name: UnsafePointer<CChar>)

struct Basket<Item> {
  var items: [Item] = []
  @inline(never) mutating func add(_ item: Item) -> Int {
    items.append(item)
    probe("method")  // @method
    return items.count
  }
}

@inline(__always) func fold(_ value: Int) -> Int {
  probe("inlined")  // @fold
  return value &+ 1
}

@inline(never) func work(_ value: Int) -> Int {
  fold(value) &* 3  // @work
}

var basket = Basket<Int>()
print(basket.add(3), work(CommandLine.argc > 9 ? 1 : 2))
