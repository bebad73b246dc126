// Package test asks packets: it runs the real salp program in a private network of namespaces and compares what client, server
// and kernel saw with what Salp promises.
//
// The tests need root, nft and ip; they skip, saying so, where something is missing. SALP_BIN names a salp program to test instead
// of one built here, so that a compiled test binary can be carried to a machine with another kernel; SALP_TEST_SLOWDOWN=3 gives
// Salp three times as long for everything there. -short makes the long ones short.
package test
