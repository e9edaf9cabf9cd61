-- Addresses in the mesh that hosts of the configuration have, or had until `given_up_at`, and those that nodes which have joined had
-- before they were moved: nobody else gets one until it has rested. (What a removed node had stands with it in joined_nodes.)
CREATE TABLE resting_addresses (
    address inet PRIMARY KEY,
    given_up_at timestamptz
);
