"""Cases that are drawn, judged and shrunk; the probe grid."""
