# What the other hosts must know of this one. Its own keys: journalctl --unit 'wisehosting-keys@*'
{
  roles = [ "control-plane" ];
  address = "10.50.0.1";
  endpoint = "198.51.100.1:51821";
  publicKey = "dNK5VenZXKPA82H2JeM2sAknaW7m3MB6DrV996wgZuk=";
}
