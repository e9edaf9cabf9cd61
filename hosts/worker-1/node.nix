# What the other hosts must know of this one. Its own keys: journalctl --unit 'wisehosting-keys@*'
{
  roles = [ "worker" ];
  address = "10.50.0.11";
  endpoint = "198.51.100.11:51821";
  publicKey = "GSS54DRaFnihJHqHqMR1rVO1mIMxj43gIHRPGgIcnu4=";
  apiKeySha256 = "152278abb9e33966d2abecd0e8069201accdb474055d6440e3a5fe6abf15056c";
}
