# What the other hosts must know of this one. Its own keys: journalctl --unit 'wisehosting-keys@*'
{
  roles = [ "proxy" ];
  address = "10.50.0.30";
  endpoint = "198.51.100.30:51821";
  publicKey = "DA/eD5/OGhnR7gwOD6bUOA1zE7DycRBJ4lFQmAm4GHI=";
  apiKeySha256 = "e3b3270d0373b3b70308539d96adc47212803e2e1e86483fc704b1cb414201d6";
}
