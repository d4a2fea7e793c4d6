// SPDX-License-Identifier: Apache-2.0
// Which functions are wrappers: plain names, patterns, the list that comes with the program.

import ByteText
import TestSupport
import Testing

@testable import Provenance

@Suite("Plain names of functions", .bounded)
struct FunctionNameTests {
  @Test(
    "without types, parameters, results and suffixes",
    arguments: [
      ("malloc", "malloc"),
      ("zmalloc_usable.part.0", "zmalloc_usable"),
      ("f.constprop.0.isra.0", "f"),
      ("fill(std::map<int, int>&) [clone .cold]", "fill"),
      ("std::__new_allocator<char>::allocate(unsigned long, void const*)", "std::__new_allocator::allocate"),
      (
        "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >::_M_create(unsigned long&)",
        "std::basic_string::_M_create"
      ),
      ("std::__1::vector<int>::push_back(int&&)", "std::vector::push_back"),
      ("std::shared_ptr<Node> std::make_shared<Node, int (*)(char)>(int (*&&)(char))", "std::make_shared"),
      ("operator new(unsigned long)", "operator new"),
      ("operator new[](unsigned long, std::nothrow_t const&)", "operator new[]"),
      ("Arena::operator new(unsigned long)", "Arena::operator new"),
      ("Caller::operator()(int) const", "Caller::operator()"),
      ("std::ostream& std::operator<< <char>(std::ostream&, char)", "std::operator<<"),
      ("std::string std::operator+<char, std::allocator<char> >(char const*, std::string&)", "std::operator+"),
      ("std::strong_ordering operator<=> <int>(A, A)", "operator<=>"),
      ("A::operator->() const", "A::operator->"),
      ("Swift.(_allocateStringStorage in _5B79)(n: Swift.Int) -> Swift.AnyObject", "Swift._allocateStringStorage"),
      ("main.(helper in _1F0A).run(Swift.Int) -> ()", "main.helper.run"),
      ("(anonymous namespace)::make(int)", "make"),
      ("a::(anonymous namespace)::make(int)", "a::make"),
      ("run(int)::{lambda(int)#1}::operator()(int) const", "run::{lambda(int)#1}::operator()"),
      ("name[abi:cxx11](int)", "name"),
      ("generic specialization <Swift.Int> of Swift.Array.append(__owned A) -> ()", "Swift.Array.append"),
      ("static Swift._ArrayBuffer.make(n: Swift.Int) -> Swift._ArrayBuffer<A>", "Swift._ArrayBuffer.make"),
      ("main.Node.__allocating_init(key: Swift.String) -> main.Node", "main.Node.__allocating_init"),
      ("(extension in Foundation):Swift.String.init(contentsOf: A) throws -> Swift.String", "Swift.String.init"),
      ("main.count.getter : Swift.Int", "main.count.getter"),
      ("alloc::raw_vec::RawVec<T,A>::grow_one::h0123456789abcdef", "alloc::raw_vec::RawVec::grow_one"),
      ("<alloc::vec::Vec<T> as core::clone::Clone>::clone", "<alloc::vec::Vec<T> as core::clone::Clone>::clone"),
      ("std.array.Appender!(char[]).Appender.put", "std.array.Appender.Appender.put"),
      ("shop.find!((a) => a > 1, int[]).find", "shop.find.find"),
      ("", ""),
    ])
  func plain(name: String, plain: String) {
    #expect(String(decoding: FunctionName.plain(Array(name.utf8)), as: UTF8.self) == plain)
  }

  @Test("any bytes have some plain name")
  func hostile() {
    var random = RandomNumbers()
    let alphabet = Array("operator new()<>[]{}:. ->abi clone h0".utf8) + [0, 0xFF, 0xC3]
    for _ in 0..<20_000 {
      let name = (0..<Int.random(in: 0..<32, using: &random)).map { _ in alphabet.randomElement(using: &random)! }
      #expect(FunctionName.plain(name).count <= name.count)
    }
    let long = Array(repeating: UInt8(ascii: "<"), count: 1 << 20)
    #expect(FunctionName.plain([65] + long).count == long.count + 1)
  }
}

@Suite("Wrappers", .bounded)
struct WrappersTests {
  @Test(
    "functions of the list",
    arguments: [
      "malloc", "operator new(unsigned long)", "zmalloc", "zmalloc_usable", "ztrymalloc_usable_internal.part.0",
      "xmalloc", "xrealloc", "g_malloc0_n", "PyMem_RawMalloc", "_PyMem_RawMalloc", "PyObject_Malloc", "swift_slowAlloc",
      "swift_allocObject", "sqlite3DbMallocRawNN", "sqlite3MemMalloc", "CRYPTO_zalloc", "ngx_palloc", "apr_palloc",
      "je_malloc", "mi_malloc", "tc_new", "__rust_alloc", "alloc::alloc::exchange_malloc",
      "alloc::raw_vec::RawVec<T,A>::reserve::do_reserve_and_handle", "strdup",
      "std::allocator_traits<std::allocator<int> >::allocate(std::allocator<int>&, unsigned long)",
      "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >::_M_create(unsigned long&)",
      "std::unique_ptr<A, std::default_delete<A> > std::make_unique<A>()",
      "std::_Rb_tree<int, std::pair<int const, int> >::_M_get_node()",
      "generic specialization <Swift.Int> of Swift._ContiguousArrayBuffer.init(_uninitializedCount: Swift.Int)",
      "main.Node.__allocating_init() -> main.Node",
      "<alloc::string::String as core::fmt::Write>::write_str", "alloc::slice::<impl [T]>::to_vec", "<[u8]>::to_vec",
      "<u8 as <[_]>::to_vec_in::ConvertVec>::to_vec::<alloc::alloc::Global>",
      "<T as core::convert::Into<U>>::into", "core::iter::traits::iterator::Iterator::collect",
      "core::ops::function::FnOnce::call_once{{vtable.shim}}", "std::io::stdio::_print", "std::thread::spawn",
      "std::sync::once_lock::OnceLock<T>::initialize", "std::sys::backtrace::__rust_begin_short_backtrace",
      "<&mut I as core::iter::traits::iterator::Iterator>::next", "hashbrown::raw::RawTable<T,A>::reserve_rehash",
      "<std::collections::hash::map::HashMap<K,V,S> as core::iter::traits::collect::Extend<(K,V)>>::extend",
      "_d_newclass", "core.memory.GC.malloc", "std.array.Appender!(char[]).Appender.put",
    ])
  func standard(function: String) {
    #expect(Wrappers.standard.contains(ForeignText(function)))
  }

  @Test(
    "functions that are sites",
    arguments: [
      "main", "createObject", "fopen", "getline", "", "mallocate", "my_xmalloc", "operator newer",
      "fill(std::vector<int, std::allocator<int> >&)", "std::thread::thread<void (&)()>(void (&)())",
      "main.build() -> Swift.Array<Swift.Int>", "std::vector_like::push()", "raxNewNode", "PyList_New",
      "sqlite3VdbeCreate", "<shop::Order as core::fmt::Display>::fmt", "<shop::Order as core::clone::Clone>::clone",
      "shop::make_order", "shop::main::{{closure}}", "std::thread::_M_start_thread()",
      "std::filesystem::path::path(int)",
      "core::Engine::load(int)", "std::rt::lang_start_internal", "shop.Shelf.put", "D main",
      "std::thread::_State_impl<std::thread::_Invoker<std::tuple<main::{lambda()#1}> > >::_M_run()",
    ])
  func sites(function: String) {
    #expect(!Wrappers.standard.contains(ForeignText(function)))
  }

  @Test(
    "patterns",
    arguments: [
      ("a", "a", true), ("a", "ab", false), ("*", "", true), ("a*", "abc", true), ("*c", "abc", true),
      ("a*b*c", "a__b_b__c", true), ("a*b*c", "a__c__b", false), ("?", "", false), ("a?c", "a\u{E9}c", true),
      ("a?c", "ac", false), ("**", "x", true), ("a**", "a", true),
      ("*a*a*a*a*b", String(repeating: "a", count: 3000), false),
    ])
  func globs(pattern: String, name: String, matches: Bool) {
    #expect(Wrappers.matches(Array(name.utf8), Array(pattern.utf8)) == matches)
  }

  @Test("a list has one pattern a line, comments and empty lines")
  func list() {
    let list = Wrappers.patterns(in: Array("# comment\n\n  a_*  \r\noperator new\n\t#x\nb".utf8))
    #expect(list.map { String(decoding: $0, as: UTF8.self) } == ["a_*", "operator new", "b"])
  }
}
