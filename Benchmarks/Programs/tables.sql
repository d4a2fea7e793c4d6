-- SPDX-License-Identifier: Apache-2.0
-- A database in memory: bulk insert, index, joins, grouping, update, delete, and many small statements' worth of rows.
PRAGMA temp_store = MEMORY;
CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT, city TEXT, born INTEGER);
CREATE TABLE payment(id INTEGER PRIMARY KEY, person INTEGER, amount REAL, note TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
  INSERT INTO person SELECT i, 'name ' || (i * 7919 % 60000), 'city ' || (i % 311), 1900 + i % 120 FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 250000)
  INSERT INTO payment SELECT i, i * 31 % 60000 + 1, i % 1000 / 7.0, printf('payment %d of %s', i, hex(i)) FROM n;
CREATE INDEX payment_person ON payment(person);
CREATE INDEX person_name ON person(name);
SELECT city, count(*), round(sum(amount), 2) FROM person JOIN payment ON payment.person = person.id
  GROUP BY city ORDER BY 3 DESC LIMIT 5;
SELECT born, length(group_concat(DISTINCT city)) FROM person WHERE born < 1904 GROUP BY born;
SELECT count(*) FROM payment WHERE note LIKE '%77%';
UPDATE payment SET note = upper(note) || ' checked' WHERE id % 3 = 0;
DELETE FROM payment WHERE id % 5 = 0;
SELECT count(*), sum(length(note)) FROM payment;
SELECT upper(substr(name, 1, 8)), count(*) FROM person GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5;
