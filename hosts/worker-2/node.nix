# What the other hosts must know of this one. Its own keys: journalctl --unit 'wisehosting-keys@*'
{
  roles = [ "worker" ];
  address = "10.50.0.12";
  endpoint = "198.51.100.12:51821";
  publicKey = "5K7GRKkaDcQJeTRDxUijeh/OklnUcJZLDXOZ9mhEyA4=";
  apiKeySha256 = "6baac1db49b43525403f3a6ead1b6cb5e0e25618818c88f1c19c84058d0a0e49";
}
